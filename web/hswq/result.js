// Results that open: a page of ours in a new tab, and where a file is, to be copied.

import { make } from "./widget.js";
import { say } from "./words.js";

/** The address of a file in ComfyUI's folders. */
export function addressOf(api, file) {
    return api.apiURL(`/view?${new URLSearchParams(file)}`);
}

/** A button that opens a page of ours. ComfyUI serves pages as downloads, so that none runs as a part of its own. */
export function openButton(api, file, text) {
    const button = make("button", "hswq-open", text);
    button.addEventListener("click", () => openPage(api, file));
    return button;
}

async function openPage(api, file) {
    const tab = window.open("", "_blank"); // at once: later it would not be the user's own click
    if (!tab) return;
    const response = await fetch(addressOf(api, file));
    const frame = tab.document.createElement("iframe");
    frame.sandbox = "allow-scripts"; // it can reach neither this page nor its server
    frame.srcdoc = response.ok ? await response.text() : say("this file is gone");
    Object.assign(frame.style, { position: "fixed", inset: 0, width: "100%", height: "100%", border: 0 });
    tab.document.title = file.filename;
    tab.document.body.replaceChildren(frame);
}

/** Where a file is on the server's machine, and a button that copies it. */
export function pathLine(path, text) {
    const field = make("input", "hswq-path");
    Object.assign(field, { value: path, readOnly: true, title: path });
    return make("div", "hswq-row", field, copyButton(path, text, () => field.select()));
}

/** A button that copies a text. Without HTTPS there is no clipboard: ``select`` then shows what to copy. */
export function copyButton(copied, text, select = () => {}) {
    const button = make("button", "hswq-copy", text);
    button.addEventListener("click", async () => {
        select();
        await navigator.clipboard?.writeText(copied).catch(() => {});
        button.textContent = say("copied");
        setTimeout(() => (button.textContent = text), 1500);
    });
    return button;
}
