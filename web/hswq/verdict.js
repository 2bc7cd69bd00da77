// HSWQ Prove: the verdict, in colour when it is not good.

import { addView, make, onExecuted } from "./widget.js";

export function attachVerdict(node, api) {
    const element = make("div", "hswq-verdict");
    const view = addView(node, api, "hswq_verdict", element, 80);
    onExecuted(node, (output) => {
        const found = output.hswq_verdict?.[0];
        if (!found) return;
        element.replaceChildren(make("div", found.warnings.length ? "warn" : "", found.text));
        view.show();
    });
}
