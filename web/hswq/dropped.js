// A quantized .safetensors file that is dropped on the page opens in HSWQ's loader. A page learns a file's name, not its
// place: the loader takes the file of that name where ComfyUI looks for models, and where there is none the page says so.

import { isOurs, isQuantized, readHeader } from "./safetensors.js";
import { setValue, widgetNamed } from "./widget.js";
import { say } from "./words.js";

const LOADERS = [
    ["checkpoints", "HSWQLoader", "ckpt_name"],
    ["diffusion_models", "HSWQDiffusionModelLoader", "unet_name"],
];

export function openDropped(app, api) {
    window.addEventListener("drop", (event) => {
        const [file, ...others] = event.dataTransfer?.files ?? [];
        if (others.length || !file?.name.endsWith(".safetensors")) return;
        // Before the page reads all of its gigabytes; what is not ours is handed back to it.
        event.preventDefault();
        event.stopImmediatePropagation();
        open(file, app, api, [event.clientX, event.clientY]);
    }, true);
}

async function open(file, app, api, [x, y]) {
    const header = await readHeader(file);
    if (!isQuantized(header)) return app.handleFile(file);
    for (const [list, kind, field] of LOADERS) {
        const names = await (await api.fetchApi(`/models/${list}`)).json();
        const name = names.find((each) => each.split(/[\\/]/).pop() === file.name);
        if (name === undefined) continue;
        const node = globalThis.LiteGraph.createNode(kind);
        const { scale, offset } = app.canvas.ds;
        const bounds = app.canvasEl.getBoundingClientRect();
        node.pos = [(x - bounds.left) / scale - offset[0], (y - bounds.top) / scale - offset[1]];
        app.graph.add(node);
        const widget = widgetNamed(node, field);
        if (!widget.options.values.includes(name)) widget.options.values.push(name); // written since the page was opened
        setValue(widget, name);
        return;
    }
    if (!isOurs(header)) return app.handleFile(file); // of another tool, and maybe no diffusion model
    const detail = say("{0} is not where ComfyUI looks for models: move it to models/checkpoints, and drop it again", file.name);
    app.extensionManager.toast.add({ severity: "warn", summary: "HSWQ", detail, life: 10_000 });
}
