// HSWQ Quantize in mode mixed: the predicted error over the size of the file, and the size as a line to drag.

import { KEPT, FP8 } from "./widget.js";

const LEAST = 1e-9; // below, nothing is to be seen in an image, and files only grow

/** The part of the curve that is shown: sizes up to the original's, errors down to LEAST. */
export function shown(curve) {
    const points = curve.sizes.map((size, index) => [size, curve.errors[index]]);
    return points.filter(([size, error]) => size <= curve.source_bytes && error >= LEAST);
}

/** Where a size stands from 0 (the smallest file) to 1 (the original). */
export function placeOf(curve, size) {
    const least = curve.sizes[0];
    return Math.min(1, Math.max(0, (size - least) / Math.max(1, curve.source_bytes - least)));
}

/** The budget at a place, as the node's input has it: per cent of the original, in tenths, no smaller than can be had. */
export function budgetAt(curve, place) {
    const least = curve.sizes[0];
    const size = least + Math.min(1, Math.max(0, place)) * (curve.source_bytes - least);
    return `${(Math.ceil((size / curve.source_bytes) * 1000) / 10).toFixed(1)}%`;
}

/** The predicted error of a size: that of the largest file on the curve that is not larger. */
export function errorAt(curve, size) {
    let found = curve.errors[0];
    curve.sizes.forEach((each, index) => {
        if (each <= size) found = curve.errors[index];
    });
    return found;
}

/** "79 int6, 61 int8, 35 int4". */
export function layersInWords(counts) {
    return Object.entries(counts).map(([form, count]) => `${count} ${form}`).join(", ");
}

export function paintErrors(canvas, curve, height) {
    const context = canvas.getContext("2d");
    const width = (canvas.width = Math.max(1, canvas.clientWidth) * devicePixelRatio);
    canvas.height = height * devicePixelRatio;
    const points = shown(curve);
    if (!points.length) return;
    const logs = points.map(([, error]) => Math.log10(error));
    const [high, low] = [Math.max(...logs), Math.min(...logs)];
    const y = (log) => canvas.height * (0.06 + 0.88 * (1 - (log - low) / Math.max(high - low, 1e-9)));
    context.strokeStyle = FP8;
    context.lineWidth = 2 * devicePixelRatio;
    context.beginPath();
    points.forEach(([size], index) => context.lineTo(placeOf(curve, size) * width, y(logs[index])));
    context.stroke();
    const x = placeOf(curve, curve.planned_bytes) * width;
    context.fillStyle = "#fff";
    context.fillRect(x - devicePixelRatio, 0, 2 * devicePixelRatio, canvas.height);
    context.fillStyle = KEPT;
    context.beginPath();
    context.arc(x, y(Math.log10(Math.max(curve.planned_error, 10 ** low))), 5 * devicePixelRatio, 0, 2 * Math.PI);
    context.fill();
}
