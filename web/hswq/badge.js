// The loaders: format, layers in 8 bits and kept, memory of the file that was opened, and who made it from what.
// A workflow may say which kind of file a loader is for (property "hswq_kind"): the list's first such file is chosen.

import { size as sizeInWords } from "./format.js";
import { originOf } from "./curve.js";
import {
    addView, FP8, isConnected, make, onChange, onConfigured, onConnections, onExecuted, onServerEvent, setHidden,
    widgetNamed,
} from "./widget.js";
import { say } from "./words.js";

export function describe(loaded) {
    const kept = say("{0} in {1}", loaded.other_layers, loaded.dtype);
    const layers = loaded.quantized_layers
        ? say("{0} layers in {1}, {2}", loaded.quantized_layers, loaded.grid, kept)
        : say("{0}, none quantized", kept);
    const facts = [loaded.format.toUpperCase(), say("{0} of weights", sizeInWords(loaded.nbytes))];
    if (loaded.predicted_error) facts.push(say("predicted error {0}", loaded.predicted_error.toExponential(1)));
    const how = loaded.computing ? [computing(loaded.computing)] : [];
    return [facts.join("  ·  "), layers, ...how, ...(loaded.origin ? [loaded.origin] : [])];
}

/** How the layers compute: how many fast, and why the others do not. */
function computing({ fast, exact }) {
    const others = Object.entries(exact).map(([reason, count]) => `${count} ${say(reason)}`);
    const multiplied = say("{0} layers multiply in 8 bits", fast);
    return others.length ? say("{0}; exact: {1}", multiplied, others.join(", ")) : multiplied;
}

/** Older workflows have a switch where compute is now: its value moves there, and it is not shown. */
export function moveOldSwitch(node) {
    const before = widgetNamed(node, "fp8_matmul");
    const compute = widgetNamed(node, "compute");
    if (!before || !compute) return;
    if (before.value === true) compute.value = "fast";
    before.value = false;
    setHidden(before, true);
}

export function attachBadge(node, api) {
    const element = make("div", "hswq-badge");
    Object.assign(element.style, { padding: "2px 8px", borderLeft: `3px solid ${FP8}` });
    const view = addView(node, api, "hswq_badge", element, 70);
    const list = node.comfyClass === "HSWQLoader" ? "checkpoints" : "diffusion_models";
    const chosen = widgetNamed(node, list === "checkpoints" ? "ckpt_name" : "unet_name");
    const byPath = () => isConnected(node, "path");

    function tell(loaded) {
        // A file that is not quantized, where one of ours was meant, shows no difference to the original.
        const className = loaded.quantized_layers ? "" : byPath() ? "warn" : "note";
        const lines = byPath() ? [say("from the connected path: {0}", loaded.name)] : [];
        element.replaceChildren(...[...lines, ...describe(loaded)].map((line) => make("div", className, line)));
        element.title = loaded.name;
        view.show();
    }

    /** Take a file of the kind that the workflow asks for; whether there is one. */
    async function chooseByKind() {
        const kind = node.properties?.hswq_kind;
        if (!kind) return true;
        const response = await api.fetchApi(`/hswq/files?${new URLSearchParams({ list, kind })}`);
        const { names } = await response.json();
        if (names.length && !names.includes(chosen.value)) chosen.value = names[0];
        if (names.length) return true;
        const missing = say("there is no {0} file yet: write one with HSWQ Quantize", kind.toUpperCase());
        element.replaceChildren(make("div", "warn", missing));
        view.show();
        return false;
    }

    async function show(name) {
        const response = await api.fetchApi(`/hswq/file?${new URLSearchParams({ list, name })}`);
        if (response.ok) tell(await response.json());
    }

    // The header of the chosen file says it all, without loading it; a connected path is known once it was run.
    async function ask() {
        if (!chosen) return;
        chosen.disabled = byPath();
        if (byPath() || !(await chooseByKind())) return;
        if (chosen.value) await show(chosen.value);
    }

    moveOldSwitch(node);
    onConfigured(node, () => moveOldSwitch(node));
    const soon = () => setTimeout(() => ask().catch(() => {}), 100); // a workflow's values are set after its nodes
    onChange(chosen, () => {
        if (node.properties) delete node.properties.hswq_kind; // the user has chosen
        soon();
    });
    onConnections(node, soon);
    onExecuted(node, (output) => {
        const loaded = output.hswq_loaded?.[0];
        if (loaded) tell(loaded);
        else soon();
    });
    // A loader that is taken from the cache says nothing, but whoever wrote its file does.
    onServerEvent(node, api, "executed", ({ node: origin, output }) => {
        const written = output?.hswq_verdict?.[0]?.name;
        if (written && byPath() && String(originOf(node, "path")?.id) === String(origin)) show(written).catch(() => {});
    });
    soon();
}
