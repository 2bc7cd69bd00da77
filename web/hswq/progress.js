// HSWQ Calibrate and Calibrate Run: image, step, time left, and which noise levels have been measured.

import { duration } from "./format.js";
import { addView, FP8, KEPT, make, onServerEvent } from "./widget.js";

const LEVELS = 34;

export function attachProgress(node, api) {
    const text = make("div", "hswq-progress");
    const warning = make("div", "hswq-left-out warn");
    const bar = make("progress", "");
    bar.style.width = "100%";
    const levels = make("div", "hswq-levels");
    Object.assign(levels.style, { display: "flex", alignItems: "flex-end", gap: "2px", height: `${LEVELS}px` });
    levels.title = "Measured steps by noise level, from clean (left) to pure noise (right)";
    const view = addView(node, api, "hswq_progress", make("div", "", text, warning, bar, levels), LEVELS + 66);

    onServerEvent(node, api, "hswq.progress", (event) => {
        if (String(event.node) !== String(node.id)) return;
        const left = event.seconds_left === null ? "" : `, ${duration(event.seconds_left)} left`;
        text.textContent =
            `image ${event.image} of ${event.images}, step ${event.step} of ${event.steps}` +
            (event.share < 1 ? left : ", done");
        warning.textContent = event.left_out && `not added to the session: ${event.left_out}`;
        bar.value = event.share;
        drawLevels(levels, event.noise_levels);
        view.show();
    });
}

function drawLevels(element, counts) {
    const most = Math.max(...counts, 1);
    element.replaceChildren(
        ...counts.map((count) => {
            const bar = make("div", "");
            const height = `${count ? Math.max(12, (100 * count) / most) : 4}%`;
            Object.assign(bar.style, { flex: "1", height, background: count ? FP8 : KEPT });
            bar.title = `${count} steps`;
            return bar;
        }),
    );
}
