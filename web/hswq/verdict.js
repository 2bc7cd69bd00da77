// The verdict, the same on every node: a sentence, its colour, and what is below it. HSWQ Prove shows it alone.

import { fromServer } from "./messages.js";
import { openButton } from "./result.js";
import { addView, make, onExecuted } from "./widget.js";
import { say } from "./words.js";

const COLOURS = { good: "#3fa66b", fair: "#8a9a2f", poor: "#c98a1b", bad: "#d2453a" };

/** The sentence of a verdict, in the page's language. */
export function sentenceOf(verdict) {
    const said = (phrase) => say(...phrase);
    const basis = verdict.basis ? ` (${said(verdict.basis)})` : "";
    const further = [verdict.size, verdict.action].filter(Boolean).map(said);
    return [`${verdict.found.map(said).join(", ")}${basis}.`, ...further].join(" ");
}

/** The sentence with its colour; what asks for an action stands out, and notes do not. */
export function verdictLines(verdict) {
    const sentence = make("div", "hswq-sentence", sentenceOf(verdict));
    const colour = COLOURS[verdict.tone] ?? "currentColor";
    Object.assign(sentence.style, { borderLeft: `4px solid ${colour}`, paddingLeft: "6px", fontSize: "12px" });
    sentence.dataset.tone = verdict.tone ?? "";
    const warnings = (verdict.warnings ?? []).map((text) => make("div", "warn", fromServer(text)));
    const notes = (verdict.notes ?? []).map((text) => make("div", "note", fromServer(text)));
    return [sentence, ...warnings, ...notes];
}

export function attachVerdict(node, api) {
    const element = make("div", "hswq-verdict");
    Object.assign(element.style, { height: "100%", overflowY: "auto" });
    const view = addView(node, api, "hswq_verdict", element, 130);
    onExecuted(node, (output) => {
        const verdict = output.hswq_verdict?.[0];
        if (!verdict) return;
        const open = verdict.file ? [openButton(api, verdict.file, say("Open proof"))] : [];
        element.replaceChildren(...open, ...verdictLines(verdict));
        view.show();
    });
}
