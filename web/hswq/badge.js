// The loaders: format, layers in FP8 and kept, memory of the file that was opened.

import { megabytes } from "./format.js";
import { addView, FP8, make, onChange, onExecuted, widgetNamed } from "./widget.js";

export function describe(loaded) {
    const kept = `${loaded.other_layers} in ${loaded.dtype}`;
    const layers = loaded.quantized_layers ? `${loaded.quantized_layers} layers in ${loaded.grid}, ${kept}` : `${kept}, none quantized`;
    return [`${loaded.format.toUpperCase()}  ·  ${megabytes(loaded.nbytes)} of weights`, layers];
}

export function attachBadge(node, api) {
    const element = make("div", "hswq-badge");
    Object.assign(element.style, { padding: "2px 8px", borderLeft: `3px solid ${FP8}` });
    const view = addView(node, api, "hswq_badge", element, 38);
    const list = node.comfyClass === "HSWQLoader" ? "checkpoints" : "diffusion_models";
    const chosen = widgetNamed(node, list === "checkpoints" ? "ckpt_name" : "unet_name");

    function tell(loaded) {
        // A file that is not quantized, where one of ours was meant, shows no difference to the original.
        const className = loaded.quantized_layers ? "" : "warn";
        element.replaceChildren(...describe(loaded).map((line) => make("div", className, line)));
        element.title = loaded.name;
        view.show();
    }

    // The header of the chosen file says it all, without loading it; a connected path is known once it was run.
    async function ask() {
        const given = node.inputs?.find((input) => input.name === "path");
        if (given?.link != null || !chosen?.value) return;
        const response = await api.fetchApi(`/hswq/file?${new URLSearchParams({ list, name: chosen.value })}`);
        if (response.ok) tell(await response.json());
    }

    const soon = () => setTimeout(() => ask().catch(() => {}), 50);
    onChange(chosen, soon);
    onExecuted(node, (output) => (output.hswq_loaded?.[0] ? tell(output.hswq_loaded[0]) : soon()));
    soon();
}
