// A view of ours on a node: a DOM widget, which works in both of the page's node renderers.

export const KEPT = "#d2603a";
export const FP8 = "#3a78b5";

const MOUNTED = 300; // milliseconds after which the page has put a new node's elements in their places
const MARGINS = 20; // what the page leaves free above and below a DOM widget, out of its height

const STYLE = `
.hswq { box-sizing: border-box; width: 100%; height: 100%; overflow: hidden; font: 11px/1.4 sans-serif;
        color: var(--input-text, #ddd); user-select: none; }
.hswq[hidden], .hswq [hidden] { display: none; }
.hswq canvas { display: block; width: 100%; touch-action: none; }
.hswq .warn { color: color-mix(in srgb, #e8a33d 55%, var(--input-text, #ddd)); }
.hswq .note { opacity: 0.75; }
.hswq-row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.hswq-row input { flex: 1 1 80px; min-width: 0; }
.hswq button, .hswq-row input { font: inherit; color: inherit; background: #8883; border: 1px solid #8886; border-radius: 4px;
        padding: 1px 7px; }
.hswq button { cursor: pointer; }
.hswq a { color: inherit; }
.hswq-whole { display: flex; flex: 1 1 auto; flex-direction: column; gap: 2px; min-height: 0; }
.hswq-whole:fullscreen { background: #111; padding: 8px; color: #ddd; }
.hswq-legend { display: flex; gap: 12px; }
.hswq-badge div { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.hswq .swatch { display: inline-block; width: 9px; height: 9px; margin-right: 4px; }
`;

/**
 * Adds ``content`` below the node's own widgets; it takes no room until ``show`` is called.
 *
 * One that ``grows`` takes what room the node has. An error of the node is told here, too, until the next run: newer pages show it only on demand.
 */
export function addView(node, api, name, content, height, { grows = false } = {}) {
    addStyle();
    const problem = make("div", "hswq-error warn");
    const element = make("div", "hswq", problem, content);
    element.hidden = true;
    const room = () => (element.hidden ? 0 : height + MARGINS);
    const widget = node.addDOMWidget(name, "hswq", element, {
        serialize: false,
        hideOnZoom: false,
        getMinHeight: room,
        getMaxHeight: () => (grows && !element.hidden ? undefined : room()),
        getHeight: room,
    });
    widget.serialize = false; // a view has no value: saved workflows must not change
    setTimeout(() => takePlace(node, name, element), MOUNTED);
    function show() {
        takePlace(node, name, element);
        if (!element.hidden) return;
        element.hidden = false;
        const [width, least] = node.computeSize();
        node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], least)]);
        node.setDirtyCanvas?.(true, true);
    }
    function tell(text) {
        problem.textContent = text;
        content.hidden = text !== "";
    }
    onServerEvent(node, api, "execution_start", () => tell(""));
    onServerEvent(node, api, "execution_error", (error) => {
        if (String(error.node_id) !== String(node.id)) return;
        tell(error.exception_message);
        show();
    });
    return { show };
}

/** Undo makes nodes anew, and a page that draws them as elements may go on showing the view of the one that is gone. */
function takePlace(node, name, element) {
    const key = `${whereabouts(node)}/${name}`;
    const shown = [...document.querySelectorAll(".hswq")].find((each) => each.dataset.key === key);
    element.dataset.key = key;
    if (shown && shown !== element && !element.isConnected) shown.replaceWith(element);
}

/** Calls ``handle`` with what the server sent for this node, beside what the page does with it. */
export function onExecuted(node, handle) {
    const before = node.onExecuted;
    node.onExecuted = function (output) {
        before?.call(this, output);
        handle(output ?? {});
    };
}

/** Calls ``handle`` when a saved workflow's values have been put into the node. */
export function onConfigured(node, handle) {
    const before = node.onConfigure;
    node.onConfigure = function (...given) {
        before?.apply(this, given);
        handle();
    };
}

/** Calls ``handle`` with the events of this kind until the node is removed. */
export function onServerEvent(node, api, kind, handle) {
    const listen = (event) => handle(event.detail);
    api.addEventListener(kind, listen);
    const before = node.onRemoved;
    node.onRemoved = function () {
        before?.call(this);
        api.removeEventListener(kind, listen);
    };
}

export function widgetNamed(node, name) {
    return node.widgets?.find((widget) => widget.name === name);
}

/** Tells a node from all others, and is the same when undo has made it anew. */
export function whereabouts(node) {
    return `${node.graph?.id}/${node.id}`;
}

/** Gives a widget a value as if it were typed. */
export function setValue(widget, value) {
    widget.value = value;
    widget.callback?.(value);
}

/** Hides a widget in both of the page's node renderers, or shows it again. */
export function setHidden(widget, hidden) {
    widget.hidden = hidden;
    (widget.options ??= {}).hidden = hidden; // where nodes are elements of the page, which keeps these very options
    if (hidden) widget.computeSize = () => [0, -4]; // and takes no room, not even that between two
    else delete widget.computeSize;
}

/** Calls ``handle`` whenever the page changes a widget's value. */
export function onChange(widget, handle) {
    if (!widget) return;
    const before = widget.callback;
    widget.callback = function (...change) {
        const result = before?.apply(this, change);
        handle();
        return result;
    };
}

/** The colour of the page's own text, for what is painted. */
export function textColour(element) {
    return getComputedStyle(element).color;
}

/** Where the pointer is on an element, from 0 (left) to 1. */
export function place(element, event) {
    const bounds = element.getBoundingClientRect();
    return (event.clientX - bounds.left) / bounds.width;
}

/** An element with a class and children; texts become text nodes, never markup. */
export function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
}

/** A colour and what it stands for. */
export function swatch(colour, text) {
    const sample = make("span", "swatch");
    sample.style.background = colour;
    return make("span", "", sample, text);
}

/** Whether something is connected to an input. */
export function isConnected(node, name) {
    return node.inputs?.some((input) => input.name === name && input.link != null) ?? false;
}

/** Calls ``handle`` whenever a connection of the node is made or cut. */
export function onConnections(node, handle) {
    const before = node.onConnectionsChange;
    node.onConnectionsChange = function (...change) {
        before?.apply(this, change);
        handle();
    };
}

function addStyle() {
    if (document.getElementById("hswq-style")) return;
    const style = make("style", "", STYLE);
    style.id = "hswq-style";
    document.head.append(style);
}
