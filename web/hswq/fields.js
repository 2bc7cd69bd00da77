// HSWQ Quantize: the recipe comes first, and fields that few need are folded while they have their default.
// Workflows save values by their places, so what is saved keeps the server's order whatever the page shows.

import { isConnected, setHidden, widgetNamed } from "./widget.js";
import { say } from "./words.js";

const FIRST = "recipe";
const FOLDED = ["budget", "target", "rotate", "scales", "part", "force_keep", "force_quantize", "overwrite"];
const UNFOLDED = "hswq_all_fields"; // a property of the node, so that it is saved with it

/**
 * Arranges the fields of a node that was just made. Returns a function that folds what may be folded.
 *
 * It is not called when the chart sets a field: nothing may move under the pointer.
 */
export function arrangeFields(node) {
    const names = node.widgets.map((widget) => widget.name);
    const defaults = new Map(node.widgets.map((widget) => [widget.name, widget.value]));
    const folded = FOLDED.filter((name) => defaults.has(name));
    // Some pages show a button's name, not its label.
    const more = node.addWidget("button", say("more fields"), null, toggle, { serialize: false });
    more.serialize = false;
    const always = [FIRST, ...names.filter((name) => name !== FIRST && !folded.includes(name))];
    const isNeeded = (name) => widgetNamed(node, name).value !== defaults.get(name) || isConnected(node, name);

    function fold() {
        const isOpen = Boolean(node.properties?.[UNFOLDED]);
        more.name = more.label = say(isOpen ? "fewer fields" : "more fields");
        show((name) => isOpen || isNeeded(name));
    }

    /** Shows these of the folded fields. They stand before the button; that they move tells the page to look anew. */
    function show(isShown) {
        const before = node.computeSize()[1];
        for (const name of folded) setHidden(widgetNamed(node, name), !isShown(name));
        const [open, closed] = [folded.filter(isShown), folded.filter((name) => !isShown(name))];
        const named = (name) => widgetNamed(node, name);
        const ours = [...[...always, ...open].map(named), more, ...closed.map(named)];
        node.widgets = [...ours, ...node.widgets.filter((widget) => !ours.includes(widget))];
        const least = node.computeSize()[1];
        node.setSize([node.size[0], Math.max(least, node.size[1] + least - before)]);
        node.setDirtyCanvas?.(true, true);
    }

    function toggle() {
        node.properties[UNFOLDED] = !node.properties[UNFOLDED];
        fold();
    }

    keepSavedOrder(node, names, defaults, () => {
        const [width, height] = node.size; // as it was saved
        fold();
        node.setSize([width, Math.max(height, node.computeSize()[1])]);
    });
    fold();
    return fold;
}

/** Lets a node read and save values in the order of ``names``; what an older workflow does not have is the default. */
function keepSavedOrder(node, names, defaults, fold) {
    const restored = (all) => {
        for (const name of names) widgetNamed(node, name).value = all.get(name);
        fold();
        setTimeout(fold); // and once more when links are in place
    };
    const { configure, onSerialize } = node;
    node.configure = function (info) {
        const values = info.widgets_values;
        if (!Array.isArray(values)) return configure.call(this, info);
        for (const name of names) widgetNamed(this, name).value = defaults.get(name);
        const all = new Map(names.map((name, place) => [name, place < values.length ? values[place] : defaults.get(name)]));
        const widgets = this.widgets.filter((widget) => widget.serialize !== false);
        const done = configure.call(this, { ...info, widgets_values: widgets.map((widget) => all.get(widget.name)) });
        restored(all); // some pages give values by places of their own
        return done;
    };
    node.onSerialize = function (info) {
        onSerialize?.call(this, info);
        if (info.widgets_values) info.widgets_values = names.map((name) => widgetNamed(this, name).value);
    };
}
