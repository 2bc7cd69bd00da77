// Two images on top of each other: divided where the pointer is, zoomed by the wheel, moved by dragging.

import { make, place } from "./widget.js";
import { say } from "./words.js";

const MOST = 64; // screen pixels of an image's pixel
const LABEL = "position:absolute;top:4px;padding:0 5px;background:#000a;color:#fff;border-radius:3px;pointer-events:none";

export function makeStage() {
    const below = layer("reference");
    const above = layer("candidate");
    const line = make("div", "");
    const labels = [make("div", "hswq-label", say("reference")), make("div", "hswq-label", say("candidate"))];
    const stage = make("div", "hswq-slider", below, above, line, ...labels);
    stage.style.cssText = "position:relative;flex:1 1 auto;min-height:220px;overflow:hidden;resize:vertical;outline:none;cursor:ew-resize;background:#0004;touch-action:none";
    Object.assign(stage, { tabIndex: -1 }).dataset.captureWheel = "true"; // else the page zooms its canvas, unless focused
    line.style.cssText = "position:absolute;top:0;bottom:0;width:2px;background:#fff;box-shadow:0 0 2px #000;pointer-events:none";
    for (const label of labels) label.style.cssText = LABEL;
    const images = [below, above].map((each) => each.firstChild);
    // Where nodes are elements of the page they may not give a view their room: then its own corner makes it larger.
    let view = { zoom: 1, x: 0, y: 0 }; // zoom 1: the whole image, in the middle
    let dragged = null;

    function divide(at) {
        const share = Math.min(1, Math.max(0, at));
        const percent = `${100 * share}%`;
        above.style.clipPath = `inset(0 0 0 ${percent})`;
        line.style.left = `calc(${percent} - 1px)`;
        labels[0].style.right = `calc(${100 - 100 * share}% + 6px)`;
        labels[1].style.left = `calc(${percent} + 6px)`;
        stage.dataset.place = share.toFixed(3);
    }

    /** Screen pixels of an image's pixel when all of it is seen. */
    function fitted() {
        const { naturalWidth: width, naturalHeight: height } = images[0];
        return width ? Math.min(stage.clientWidth / width, stage.clientHeight / height) : 1;
    }

    function draw() {
        const scale = fitted() * view.zoom;
        for (const image of images) {
            image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
            image.style.imageRendering = scale >= 2 ? "pixelated" : "auto"; // large ones are made small smoothly
        }
        stage.dataset.zoom = view.zoom.toFixed(2);
        stage.dataset.scale = scale.toFixed(2);
    }

    /** Zoom, and keep what is at (x, y), measured from the stage's middle, where it is. */
    function zoomTo(zoom, x = 0, y = 0) {
        const next = Math.min(Math.max(1, MOST / fitted()), Math.max(1, zoom));
        const factor = next / view.zoom;
        view = next === 1 ? { zoom: 1, x: 0, y: 0 } : { zoom: next, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor };
        draw();
    }

    const focus = () => stage.focus({ preventScroll: true });
    stage.addEventListener("pointerenter", () => !document.activeElement?.matches("input, textarea") && focus());
    stage.addEventListener("wheel", (event) => {
        event.preventDefault();
        event.stopPropagation();
        const bounds = stage.getBoundingClientRect();
        const shrunk = stage.clientWidth / bounds.width; // the canvas is zoomed, too
        const x = (event.clientX - bounds.left - bounds.width / 2) * shrunk;
        const y = (event.clientY - bounds.top - bounds.height / 2) * shrunk;
        zoomTo(view.zoom * Math.exp(-event.deltaY / 300), x, y);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
        event.stopPropagation(); // the node stays where it is
        focus();
        if (view.zoom === 1) return;
        stage.setPointerCapture(event.pointerId);
        dragged = { x: event.clientX, y: event.clientY, from: view };
    });
    stage.addEventListener("pointermove", (event) => {
        if (!dragged) return divide(place(stage, event));
        const shrunk = stage.clientWidth / stage.getBoundingClientRect().width;
        const { x, y, from } = dragged;
        view = { ...from, x: from.x + (event.clientX - x) * shrunk, y: from.y + (event.clientY - y) * shrunk };
        draw();
    });
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (dragged = null));
    new ResizeObserver(draw).observe(stage);
    for (const image of images) image.addEventListener("load", draw);
    divide(0.5);
    return {
        stage,
        images,
        fit: () => zoomTo(1),
        toPixels: () => zoomTo(1 / fitted()),
    };
}

function layer(name) {
    const image = make("img", "");
    image.alt = say(name);
    image.draggable = false;
    image.style.cssText = "width:100%;height:100%;object-fit:contain";
    const found = make("div", "", image);
    found.style.cssText = "position:absolute;inset:0;pointer-events:none";
    return found;
}
