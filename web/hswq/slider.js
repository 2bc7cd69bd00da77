// HSWQ Compare: the verdict, and reference and candidate on top of each other. What it shows stays with the node.

import { addressOf } from "./result.js";
import { makeStage } from "./stage.js";
import { verdictLines } from "./verdict.js";
import { addView, make, onConfigured, onExecuted, whereabouts } from "./widget.js";
import { say } from "./words.js";

const KEPT = "hswq_compare"; // of the node's properties: a refresh and undo bring it back
const seen = new Map(); // for undoing to before it was there

export function attachSlider(node, api, noteChange) {
    const { stage, images, fit, toPixels } = makeStage();
    const verdict = make("div", "hswq-verdict");
    const text = make("div", "hswq-figures");
    const gone = make("div", "hswq-gone note", say("the images are gone; run again to see them"));
    const button = (name, title, act) => {
        const made = make("button", `hswq-${name}`, title);
        made.addEventListener("click", act);
        return made;
    };
    const turn = [button("before", "◀", () => showPair(shown - 1)), button("next", "▶", () => showPair(shown + 1))];
    const whole = make("div", "hswq-whole", stage);
    const tools = make(
        "div", "hswq-row", ...turn, button("fit", say("fit"), fit), button("pixels", "1 : 1", toPixels),
        button("full", say("full screen"), () => (document.fullscreenElement ? document.exitFullscreen() : whole.requestFullscreen())),
    );
    whole.append(tools);
    const element = make("div", "", verdict, gone, whole, text);
    element.style.cssText = "height:100%;display:flex;flex-direction:column;gap:3px";
    const view = addView(node, api, "hswq_slider", element, 360, { grows: true });
    let pairs = [];
    let shown = 0;

    function showPair(index) {
        shown = (index + pairs.length) % pairs.length;
        const pair = pairs[shown];
        images[0].src = addressOf(api, pair.reference);
        images[1].src = addressOf(api, pair.candidate);
        const number = pairs.length > 1 ? say("image {0} of {1}, ", shown + 1, pairs.length) : "";
        text.textContent = say("{0}SSIM {1}, mean PSNR {2}; wheel: zoom, drag: move", number, pair.ssim, pair.psnr);
    }

    function show(kept) {
        pairs = kept.pairs;
        for (const each of turn) each.hidden = pairs.length < 2;
        gone.hidden = true;
        whole.hidden = false;
        verdict.replaceChildren(...(kept.verdict ? verdictLines(kept.verdict) : []));
        showPair(0);
        view.show();
    }

    function restore() {
        const kept = node.properties?.[KEPT] ?? seen.get(whereabouts(node));
        if (kept?.pairs?.length) show(kept);
    }

    for (const image of images) {
        image.addEventListener("error", () => { // temporary files go when the server starts anew
            gone.hidden = false;
            whole.hidden = true;
        });
    }
    onConfigured(node, restore);
    onExecuted(node, (output) => {
        if (!output.hswq_compare?.length) return;
        const kept = { pairs: output.hswq_compare, verdict: output.hswq_verdict?.[0] };
        node.properties = { ...node.properties, [KEPT]: kept };
        seen.set(whereabouts(node), kept);
        show(kept);
        noteChange();
    });
    restore();
}
