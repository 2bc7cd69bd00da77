// What a keep ratio keeps, and the size it gives: the answer of /hswq/curve read off, nothing computed anew.

/** How many layers a ratio keeps: rounded up, as the plan does, with its tolerance for 0.1 * 30 and its like. */
export function keptCount(curve, ratio) {
    const count = Math.ceil(ratio * curve.layers.length - 1e-9);
    return Math.min(curve.layers.length, Math.max(0, count));
}

/** Bytes of the file at a keep ratio. */
export function sizeAt(curve, ratio) {
    return curve.sizes[keptCount(curve, ratio)];
}

/** Which layers are kept: by the budget where there is one, otherwise the first ones. */
export function keptLayers(curve, ratio) {
    const kept = curve.budgeted ? curve.planned_layers : curve.layers.slice(0, keptCount(curve, ratio));
    return new Set(kept);
}

/** The ratio at a place from 0 (left) to 1, in the steps of the node's input. */
export function ratioAt(place) {
    return Math.round(Math.min(1, Math.max(0, place)) * 100) / 100;
}

/** Heights from 0 to 1 on a logarithmic scale of at most 12 powers of ten. */
export function heights(sensitivity) {
    const logs = sensitivity.map((value) => Math.log10(Math.max(value, 1e-30)));
    const high = Math.max(...logs);
    const low = Math.max(Math.min(...logs), high - 12);
    return logs.map((value) => 0.04 + 0.96 * Math.max(0, (value - low) / Math.max(high - low, 1e-9)));
}

/** The session whose statistics a node's ``stats`` input gets, followed back over the graph; null if unknown. */
export function sessionOf(node, socket = "stats") {
    const value = (origin, name) => origin.widgets?.find((widget) => widget.name === name)?.value;
    const origin = originOf(node, socket);
    switch (origin?.comfyClass ?? origin?.type) {
        case "HSWQCalibrate":
        case "HSWQCalibrateRun":
            return value(origin, "session") ?? null;
        case "HSWQLoadStatistics":
            return value(origin, "file") ?? null;
        case "HSWQMeasureSensitivity":
            return sessionOf(origin);
        case "Reroute":
            return sessionOf(origin, origin.inputs[0]?.name);
        default:
            return null; // a sum of two sessions is in no file
    }
}

/** The checkpoints that a node's ``stats`` were measured on, followed back to their loaders: several of a merge. */
export function filesBehind(node, socket = "stats") {
    const origin = originOf(node, socket);
    if (!origin) return [];
    const chosen = origin.widgets?.find((widget) => ["ckpt_name", "unet_name"].includes(widget.name));
    if (chosen) return [chosen.value];
    const kind = origin.comfyClass ?? origin.type;
    const followed = (origin.inputs ?? []).filter((input) => /model|stats/i.test(input.name) || kind === "Reroute");
    return [...new Set(followed.flatMap((input) => filesBehind(origin, input.name)))];
}

/** The node that is connected to an input; null if there is none. */
export function originOf(node, socket) {
    const input = node.inputs?.find((found) => found.name === socket);
    if (input?.link == null) return null;
    const links = node.graph.links;
    const link = node.graph.getLink?.(input.link) ?? links.get?.(input.link) ?? links[input.link];
    return link ? node.graph.getNodeById(link.origin_id) : null;
}
