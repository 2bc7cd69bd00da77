// HSWQ Publish: what was written and where, and what is missing before it is uploaded.

import { addressOf, openButton, pathLine } from "./result.js";
import { addView, make, onExecuted } from "./widget.js";
import { say } from "./words.js";

export function attachPublished(node, api) {
    const element = make("div", "hswq-published");
    Object.assign(element.style, { height: "100%", overflowY: "auto" });
    const view = addView(node, api, "hswq_published", element, 150);
    onExecuted(node, (output) => {
        const found = output.hswq_published?.[0];
        if (!found) return;
        const missing = found.missing.map((text) => make("div", "warn", say(text)));
        const links = found.files.map((file) => link(api, file));
        element.replaceChildren(pathLine(found.folder, say("Copy path")), ...missing, make("div", "hswq-row", ...links));
        view.show();
    });
}

function link(api, { name, served }) {
    if (!served) return make("span", "", name);
    if (name.endsWith(".html")) return openButton(api, served, name);
    const found = make("a", "", name);
    Object.assign(found, { href: addressOf(api, served), target: "_blank", rel: "noopener" });
    return found;
}
