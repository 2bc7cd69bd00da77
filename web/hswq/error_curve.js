// HSWQ Quantize where impacts were measured: the predicted error over the size of the file, the size as a line to drag,
// and the model card's file as a point to compare with.

import { FP8, KEPT, textColour } from "./widget.js";
import { say } from "./words.js";

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

/** The logarithms of the errors at both ends of the picture, which has the curve and the model card's point in it. */
export function logRange(curve) {
    const errors = shown(curve).map(([, error]) => error);
    const logs = [...errors, ...(curve.card_error ? [curve.card_error] : [])].map(Math.log10);
    return [Math.min(...logs), Math.max(...logs)];
}

export function paintErrors(canvas, curve, height) {
    const context = canvas.getContext("2d");
    const width = (canvas.width = Math.max(1, canvas.clientWidth) * devicePixelRatio);
    canvas.height = height * devicePixelRatio;
    const points = shown(curve);
    if (!points.length) return;
    const [low, high] = logRange(curve);
    const y = (error) => canvas.height * (0.06 + 0.88 * (1 - (Math.max(Math.log10(error), low) - low) / Math.max(high - low, 1e-9)));
    context.strokeStyle = FP8;
    context.lineWidth = 2 * devicePixelRatio;
    context.beginPath();
    points.forEach(([size, error]) => context.lineTo(placeOf(curve, size) * width, y(error)));
    context.stroke();
    if (curve.card_error) paintCard(context, placeOf(curve, curve.card_bytes) * width, y(curve.card_error));
    const x = placeOf(curve, curve.planned_bytes) * width;
    context.fillStyle = textColour(canvas);
    context.fillRect(x - devicePixelRatio, 0, 2 * devicePixelRatio, canvas.height);
    context.fillStyle = KEPT;
    context.beginPath();
    context.arc(x, y(curve.planned_error), 5 * devicePixelRatio, 0, 2 * Math.PI);
    context.fill();
}

function paintCard(context, x, y) {
    context.strokeStyle = context.fillStyle = textColour(context.canvas);
    context.beginPath();
    context.arc(x, y, 4 * devicePixelRatio, 0, 2 * Math.PI);
    context.stroke();
    context.font = `${11 * devicePixelRatio}px sans-serif`;
    context.textAlign = x > context.canvas.width / 2 ? "right" : "left";
    context.fillText(say("the model card's"), x + (context.textAlign === "left" ? 8 : -8) * devicePixelRatio, y + 4 * devicePixelRatio);
}
