// HSWQ Calibrate and Calibrate Run: image, step, time left, and which noise levels have been measured.
// HSWQ Measure Sensitivity: how far it is.

import { duration } from "./format.js";
import { addView, FP8, KEPT, make, onChange, onServerEvent, widgetNamed } from "./widget.js";
import { filesBehind } from "./curve.js";
import { fromServer } from "./messages.js";
import { say } from "./words.js";

const LEVELS = 34;
const DOING = {
    measuring: "measuring the sensitivity of the layers",
    planning: "choosing layers and formats",
    rounding: "rounding the layers",
    comparing: "comparing the copy with the original",
};

/** What is told of an event: where the work is, and how long it will take. */
export function describeProgress(event) {
    const where = event.image
        ? say("image {0} of {1}, step {2} of {3}", event.image, event.images, event.step, event.steps)
        : say(DOING[event.doing]);
    const left = event.seconds_left === null ? "" : `, ${say("{0} left", duration(event.seconds_left))}`;
    return where + (event.share < 1 ? left : `, ${say("done")}`);
}

export function attachProgress(node, api) {
    const text = make("div", "hswq-progress");
    const warning = make("div", "hswq-left-out warn");
    const note = make("div", "hswq-note note");
    const bar = make("progress", "");
    bar.style.width = "100%";
    const levels = make("div", "hswq-levels");
    Object.assign(levels.style, { display: "flex", alignItems: "flex-end", gap: "2px", height: `${LEVELS}px` });
    const axis = make("div", "hswq-axis", say("measured steps by noise level: clean"), " → ", say("pure noise"));
    const parts = make("div", "", text, warning, note, bar, levels, axis);
    const view = addView(node, api, "hswq_progress", parts, LEVELS + 84);
    const session = widgetNamed(node, "session");
    let working = false;

    function drawLevels(counts) {
        levels.hidden = axis.hidden = !counts;
        if (counts) levels.replaceChildren(...bars(counts));
    }

    onServerEvent(node, api, "hswq.progress", (event) => {
        if (String(event.node) !== String(node.id)) return;
        working = event.share < 1;
        text.textContent = describeProgress(event);
        warning.textContent = event.left_out
            ? say("not added to the session: {0}", event.left_out)
            : event.unwritten
              ? say("kept in memory: {0}", event.unwritten)
              : "";
        note.textContent = "";
        bar.hidden = false;
        bar.value = event.share;
        drawLevels(event.noise_levels);
        view.show();
    });
    onServerEvent(node, api, "execution_interrupted", () => {
        if (!working) return;
        working = false;
        text.textContent = say("cancelled; the finished runs are kept");
    });

    // After a refresh, or when nothing had to run: what the session on disk holds.
    async function ask() {
        const query = new URLSearchParams({ session: session.value, file: filesBehind(node, "model").join("\n") });
        const response = await api.fetchApi(`/hswq/session?${query}`);
        const found = response.ok ? await response.json() : null;
        if (working || !found?.images) return;
        text.textContent = say(found.images === 1 ? "the session holds 1 image" : "the session holds {0} images", found.images);
        warning.textContent = found.warnings.map(fromServer).join("; ");
        note.textContent = found.notes.map(fromServer).join("; ");
        bar.hidden = true;
        drawLevels(found.noise_levels);
        view.show();
    }
    if (!session) return;
    const soon = () => setTimeout(() => ask().catch(() => {}), 50);
    onChange(session, soon);
    soon();
}

function bars(counts) {
    const most = Math.max(...counts, 1);
    return counts.map((count) => {
        const bar = make("div", "");
        const height = `${count ? Math.max(12, (100 * count) / most) : 4}%`;
        Object.assign(bar.style, { flex: "1", height, background: count ? FP8 : KEPT });
        bar.title = say("{0} steps", count);
        return bar;
    });
}
