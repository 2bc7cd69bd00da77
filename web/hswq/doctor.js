// HSWQ Doctor: the verdict first, what is wrong in orange, and all that was found as text to read and copy.

import { copyButton } from "./result.js";
import { addView, make, onExecuted } from "./widget.js";
import { say } from "./words.js";

const WIDTH = 520; // most lines of a report

/** What stands above the text: the verdict, and either what is wrong or that nothing is. */
export function headLines(told) {
    const lines = [make("div", "hswq-sentence", told.verdict)];
    const warnings = told.warnings.map((text) => make("div", "warn", text));
    const notes = told.notes.map((text) => make("div", "note", text));
    const fine = warnings.length ? [] : [make("div", "note", say("nothing is wrong with this file"))];
    return [...lines, ...warnings, ...fine, ...notes];
}

export function attachDoctor(node, api) {
    const element = make("div", "hswq-doctor");
    Object.assign(element.style, { height: "100%", overflow: "auto" });
    node.size[0] = Math.max(node.size[0], WIDTH);
    const view = addView(node, api, "hswq_doctor", element, 260, { grows: true });
    onExecuted(node, (output) => {
        const told = output.hswq_doctor?.[0];
        if (!told) return;
        const text = make("pre", "", told.text);
        Object.assign(text.style, { font: "10px/1.35 monospace", margin: "4px 0 0", whiteSpace: "pre-wrap", userSelect: "text" });
        element.replaceChildren(...headLines(told), copyButton(told.text, say("Copy report")), text);
        view.show();
    });
}
