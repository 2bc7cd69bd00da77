// HSWQ Quantize: layers by damage, the keep ratio as a line to drag, what is kept and how large the file will be.

import { filesBehind, heights, keptCount, keptLayers, ratioAt, sessionOf, sizeAt } from "./curve.js";
import { describeEstimate } from "./estimate.js";
import { budgetAt, errorAt, layersInWords, paintErrors } from "./error_curve.js";
import { percent, size as sizeInWords } from "./format.js";
import {
    addView, FP8, isConnected, KEPT, make, onChange, onConnections, onExecuted, onServerEvent, place, setValue, swatch,
    textColour, whereabouts, widgetNamed,
} from "./widget.js";
import { describeProgress } from "./progress.js";
import { pathLine } from "./result.js";
import { verdictLines } from "./verdict.js";
import { say } from "./words.js";

const ASKED = ["source", "mode", "selection", "budget", "force_keep", "force_quantize", "scales", "rotate", "rounding", "target", "keep_ratio"];
const HEIGHT = 96;
const TOLD = new Map(); // what the latest run said of a node, by graph and node
const WAITING = "Once the model is calibrated, layers and sizes are shown here.";
const UNMEASURED = "Layers and sizes are shown here once their sensitivity is measured: ";
const AXIS = "layers, the most sensitive on the left; height: sensitivity, logarithmic";
const AXIS_OF_ERRORS = "size, up to the original's; height: predicted error of the output, logarithmic";

export function attachChart(node, api) {
    const verdict = make("div", "hswq-verdict");
    Object.assign(verdict.style, { maxHeight: "110px", overflowY: "auto" });
    const said = make("div", "hswq-size");
    const canvas = make("canvas", "hswq-chart");
    const about = make("div", "hswq-about");
    const legend = make("div", "hswq-legend", swatch(KEPT, say("kept in 16 bits")), swatch(FP8, say("in 8 bits")));
    const axis = make("div", "hswq-axis", say(AXIS));
    const needs = make("div", "hswq-estimate");
    const problem = make("div", "hswq-problem warn");
    const element = make("div", "", verdict, said, needs, problem, canvas, axis, legend, about);
    Object.assign(canvas, { tabIndex: 0, title: say("Drag: the share of layers that are kept") });
    canvas.style.height = `${HEIGHT}px`;
    const view = addView(node, api, "hswq_chart", element, HEIGHT + 200);
    const ratio = widgetNamed(node, "keep_ratio");
    const budget = widgetNamed(node, "budget");
    let curve = null;
    let estimate = null;
    let doing = null; // what the run is at, while it is at this node

    function drawEstimate(bytes) {
        const told = estimate ? describeEstimate(estimate, bytes, isConnected(node, "model")) : { text: "", problem: "" };
        needs.textContent = told.text;
        problem.textContent = told.problem;
    }

    function draw() {
        if (!curve) return drawEstimate(null);
        if (curve.errors) return drawErrors();
        const kept = keptLayers(curve, ratio.value);
        const size = curve.budgeted ? curve.planned_bytes : sizeAt(curve, ratio.value);
        const figures = [sizeInWords(size), percent(size, curve.source_bytes), kept.size, curve.layers.length];
        said.textContent = curve.always_kept
            ? say("{0}, {1} of the original; {2} of {3} layers kept + {4} always", ...figures, curve.always_kept)
            : say("{0}, {1} of the original; {2} of {3} layers kept", ...figures);
        said.dataset.bytes = size;
        drawEstimate(size);
        paint(canvas, curve, kept, curve.budgeted ? null : ratio.value);
    }

    function drawErrors() {
        const figures = [sizeInWords(curve.planned_bytes), percent(curve.planned_bytes, curve.source_bytes)];
        const layers = layersInWords(curve.layers_by_form);
        said.textContent = say("{0}, {1} of the original; predicted error {2}; {3}", ...figures, curve.planned_error.toExponential(1), layers);
        said.dataset.bytes = curve.planned_bytes;
        drawEstimate(curve.planned_bytes);
        paintErrors(canvas, curve, HEIGHT);
    }

    async function refresh() {
        const session = sessionOf(node);
        if (session === null) return;
        const query = new URLSearchParams({ session, file: filesBehind(node).join("\n") });
        for (const name of ASKED) query.set(name, widgetNamed(node, name)?.value ?? "");
        const response = await api.fetchApi(`/hswq/curve?${query}`);
        const answer = await response.json();
        estimate = answer.estimate ?? null;
        curve = answer.layers?.length || answer.errors?.length ? answer : null;
        for (const part of [canvas, axis, legend]) part.hidden = !curve;
        legend.hidden ||= Boolean(answer.errors);
        axis.textContent = say(answer.errors ? AXIS_OF_ERRORS : AXIS);
        canvas.title = say(answer.errors ? "Drag: the size of the file" : "Drag: the share of layers that are kept");
        said.textContent = answer.waiting ? waitingFor(node, answer) : (answer.error ?? "");
        said.classList.toggle("warn", !response.ok);
        about.textContent = "";
        view.show();
        draw();
    }

    // Typing into a field asks once, when the typing stops. A server that is gone is the page's own news.
    let asked;
    const soon = () => {
        clearTimeout(asked);
        asked = setTimeout(() => refresh().catch(() => {}), 150);
    };

    function chooseSize(at) {
        if (!curve?.errors || !budget) return;
        for (const [widget, value] of [[budget, budgetAt(curve, at)], [widgetNamed(node, "target"), ""]]) {
            if (widget) setValue(widget, value);
        }
        soon();
    }

    function choose(value) {
        if (!curve || curve.errors || curve.budgeted) return;
        setValue(ratio, value);
        draw();
    }

    canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        if (curve?.errors) chooseSize(place(canvas, event));
        else choose(ratioAt(place(canvas, event)));
        event.stopPropagation();
    });
    canvas.addEventListener("pointermove", (event) => {
        if (!curve) return;
        if (curve.errors) {
            const at = budgetAt(curve, place(canvas, event));
            about.textContent = `${at}: ${errorAt(curve, (parseFloat(at) / 100) * curve.source_bytes).toExponential(1)}`;
            if (event.buttons & 1 && canvas.hasPointerCapture(event.pointerId)) chooseSize(place(canvas, event));
            return;
        }
        const index = Math.min(curve.layers.length - 1, Math.floor(place(canvas, event) * curve.layers.length));
        if (index >= 0) about.textContent = `${curve.layers[index]}: ${curve.sensitivity[index].toExponential(1)}`;
        if (event.buttons & 1 && canvas.hasPointerCapture(event.pointerId)) choose(ratioAt(place(canvas, event)));
    });
    canvas.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
        if (!step || curve?.errors) return;
        choose(ratioAt(ratio.value + step));
        event.stopPropagation();
        event.preventDefault();
    });
    new ResizeObserver(draw).observe(canvas);

    for (const name of ASKED.filter((name) => name !== "keep_ratio")) onChange(widgetNamed(node, name), soon);
    onChange(ratio, () => (curve?.errors ? soon() : draw()));
    onConnections(node, soon);
    onServerEvent(node, api, "execution_success", soon);
    onServerEvent(node, api, "hswq.progress", (event) => {
        if (String(event.node) !== String(node.id)) return;
        verdict.textContent = event.share < 1 ? describeProgress(event) : "";
        if (event.doing !== doing) soon(); // a step that begins may know what the one before has found
        doing = event.doing;
        view.show();
    });
    onServerEvent(node, api, "execution_error", () => {
        if (doing) verdict.textContent = ""; // it will not go on
        doing = null;
    });
    onServerEvent(node, api, "execution_interrupted", () => {
        if (doing) verdict.textContent = say(doing === "comparing" ? "cancelled; the file is written" : "cancelled; nothing was written");
        doing = null;
    });
    // Undo makes nodes anew, and asks no server what it has said.
    function showVerdict(found) {
        if (!found) return;
        TOLD.set(whereabouts(node), found);
        doing = null;
        const written = make("div", "", say("written: {0}", found.name));
        const where = found.path ? [pathLine(found.path, say("Copy path"))] : [];
        verdict.replaceChildren(...verdictLines(found), written, ...where);
        view.show();
    }
    onExecuted(node, (output) => showVerdict(output.hswq_verdict?.[0]));
    setTimeout(() => showVerdict(TOLD.get(whereabouts(node))), 100); // once it is in its graph
    soon();
}

function waitingFor(node, answer) {
    if (!answer.calibrated) return say(WAITING);
    return say(UNMEASURED + (isConnected(node, "model") ? "when this node runs." : "connect the model, or run HSWQ Measure Sensitivity."));
}

function paint(canvas, curve, kept, ratio) {
    const width = (canvas.width = Math.max(1, canvas.clientWidth) * devicePixelRatio);
    const height = (canvas.height = HEIGHT * devicePixelRatio);
    const context = canvas.getContext("2d");
    const step = width / curve.layers.length;
    heights(curve.sensitivity).forEach((level, index) => {
        context.fillStyle = kept.has(curve.layers[index]) ? KEPT : FP8;
        context.fillRect(index * step, height * (1 - level), Math.max(step - 0.5, 0.75), height * level);
    });
    if (ratio === null) return;
    const x = Math.min(width - 2, keptCount(curve, ratio) * step);
    context.fillStyle = textColour(canvas);
    context.fillRect(x - devicePixelRatio, 0, 2 * devicePixelRatio, height);
    context.beginPath();
    context.arc(x, height / 2, 5 * devicePixelRatio, 0, 2 * Math.PI);
    context.fill();
}
