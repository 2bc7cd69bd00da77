// The loaders: format, layers in FP8 and kept, memory of the file that was opened.

import { megabytes } from "./format.js";
import { addView, make, onExecuted } from "./widget.js";

export function describe(loaded) {
    const kept = `${loaded.other_layers} in ${loaded.dtype}`;
    const layers = loaded.fp8_layers ? `${loaded.fp8_layers} layers in FP8, ${kept}` : `${kept}, none in FP8`;
    return [`${loaded.format.toUpperCase()}  ·  ${megabytes(loaded.nbytes)} of weights`, layers];
}

export function attachBadge(node, api) {
    const element = make("div", "hswq-badge");
    Object.assign(element.style, { padding: "2px 8px", borderLeft: "3px solid #3a78b5" });
    const view = addView(node, api, "hswq_badge", element, 38);
    onExecuted(node, (output) => {
        const loaded = output.hswq_loaded?.[0];
        if (!loaded) return;
        element.replaceChildren(...describe(loaded).map((line) => make("div", "", line)));
        element.title = loaded.name;
        view.show();
    });
}
