// HSWQ Compare: reference and candidate on top of each other, with a line between them that follows the pointer.

import { addView, make, onExecuted, place } from "./widget.js";
import { say } from "./words.js";

const HEIGHT = 300;

export function attachSlider(node, api) {
    const below = make("img", "");
    const above = make("img", "");
    const line = make("div", "");
    const stage = make("div", "hswq-slider", below, above, line);
    const text = make("div", "hswq-figures");
    const warning = make("div", "hswq-same warn");
    const view = addView(node, api, "hswq_slider", make("div", "", stage, warning, text), HEIGHT + 40);
    Object.assign(stage.style, { position: "relative", height: `${HEIGHT}px`, cursor: "ew-resize" });
    for (const image of [below, above]) {
        Object.assign(image.style, { position: "absolute", width: "100%", height: "100%", objectFit: "contain" });
        image.style.imageRendering = "pixelated";
        image.draggable = false;
    }
    Object.assign(line.style, { position: "absolute", top: 0, bottom: 0, width: "2px", background: "#fff" });
    let pairs = [];
    let shown = 0;

    function divide(at) {
        const share = Math.min(1, Math.max(0, at));
        above.style.clipPath = `inset(0 0 0 ${100 * share}%)`;
        line.style.left = `calc(${100 * share}% - 1px)`;
        stage.dataset.place = share.toFixed(3);
    }

    function showPair(index) {
        shown = (index + pairs.length) % pairs.length;
        const pair = pairs[shown];
        below.src = address(api, pair.reference);
        above.src = address(api, pair.candidate);
        const number = pairs.length > 1 ? say("image {0} of {1} (click for the next), ", shown + 1, pairs.length) : "";
        warning.textContent = pair.warning;
        const figures = [number, pair.ssim, pair.psnr];
        text.textContent = say("left: reference, right: candidate; {0}mean SSIM {1}, PSNR {2}", ...figures);
    }

    stage.addEventListener("pointermove", (event) => divide(place(stage, event)));
    stage.addEventListener("click", () => pairs.length > 1 && showPair(shown + 1));
    divide(0.5);

    onExecuted(node, (output) => {
        if (!output.hswq_compare?.length) return;
        pairs = output.hswq_compare;
        showPair(0);
        view.show();
    });
}

function address(api, file) {
    return api.apiURL(`/view?${new URLSearchParams(file)}`);
}
