// The fields of HSWQ Quantize on a node made of plain objects. Run by tests/web/test_modules.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { arrangeFields } from "../../web/hswq/fields.js";
import { attachRecipe, loadRecipes } from "../../web/hswq/recipe.js";

const RECIPES = {
    best: { mode: "int8", rotate: false, target: "" },
    fast: { mode: "int8", rotate: true, target: "" },
    small: { mode: "mixed", rotate: false, target: "", budget: "" },
    custom: {},
};
const DEFAULTS = { source: "a", mode: "v2", keep_ratio: 0.25, budget: "", overwrite: false, rotate: false, target: "", recipe: "custom" };
const NAMES = Object.keys(DEFAULTS);

await loadRecipes({ fetchApi: async () => ({ ok: true, json: async () => ({ recipes: RECIPES, default: "best" }) }) });

/** A node as the page makes it: values are read and saved by the places of its widgets. */
function makeNode() {
    const node = {
        widgets: NAMES.map((name) => ({ name, value: DEFAULTS[name], options: {} })),
        inputs: [], properties: {}, size: [300, 400],
        addWidget(type, name, value, callback) {
            const widget = { type, name, value, callback, options: {} };
            this.widgets.push(widget);
            return widget;
        },
        computeSize() { return [200, 20 * this.widgets.filter((widget) => !widget.hidden).length]; },
        setSize(size) { this.size = size; },
        configure(info) {
            this.properties = { ...info.properties };
            this.size = info.size ?? this.size;
            const widgets = this.widgets.filter((widget) => widget.serialize !== false);
            info.widgets_values?.forEach((value, place) => (widgets[place].value = value));
            this.onConfigure?.(info);
        },
        serialize() {
            const info = { properties: { ...this.properties }, size: [...this.size], widgets_values: [] };
            this.widgets.forEach((widget, place) => (info.widgets_values[place] = widget.value));
            this.onSerialize?.(info);
            return info;
        },
    };
    attachRecipe(node, arrangeFields(node));
    return node;
}

const widget = (node, name) => node.widgets.find((each) => each.name === name);
const values = (node) => Object.fromEntries(NAMES.map((name) => [name, widget(node, name).value]));
const shown = (node) => node.widgets.filter((each) => !each.hidden).map((each) => each.name);
const type = (node, name, value) => {
    widget(node, name).value = value;
    widget(node, name).callback?.(value);
};

test("a new node has the recipe first, is the best one, and shows few fields", () => {
    const node = makeNode();
    assert.deepEqual(shown(node), ["recipe", "source", "mode", "keep_ratio", "more fields"]);
    assert.deepEqual(values(node), { ...DEFAULTS, recipe: "best", mode: "int8" });
});

test("a recipe sets its fields and leaves the others; what is not the default is seen", () => {
    const node = makeNode();
    type(node, "budget", "57%");
    type(node, "recipe", "fast");
    assert.deepEqual(values(node), { ...DEFAULTS, recipe: "fast", mode: "int8", rotate: true, budget: "57%" });
    assert.deepEqual(shown(node).slice(-3), ["budget", "rotate", "more fields"]);
    type(node, "recipe", "small");
    assert.equal(widget(node, "budget").value, "");
    assert.equal(shown(node).at(-1), "more fields");
});

test("a field that is changed makes it custom, one that a recipe leaves free does not", () => {
    const node = makeNode();
    type(node, "keep_ratio", 0.1);
    type(node, "budget", "57%");
    assert.equal(widget(node, "recipe").value, "best");
    type(node, "mode", "v2");
    assert.deepEqual(values(node), { ...DEFAULTS, keep_ratio: 0.1, budget: "57%" });
    const small = makeNode();
    type(small, "recipe", "small");
    type(small, "budget", "40%");
    assert.equal(widget(small, "recipe").value, "custom");
    assert.equal(widget(small, "mode").value, "mixed");
});

test("a field that another node gives makes it custom", () => {
    const node = makeNode();
    node.inputs.push({ name: "mode", link: 3 });
    node.onConnectionsChange();
    assert.equal(widget(node, "recipe").value, "custom");
});

test("an older workflow keeps its values, and is custom", () => {
    const node = makeNode();
    node.configure({ widgets_values: ["b", "v1", 0.1, "", true], size: [300, 500] });
    assert.deepEqual(values(node), { ...DEFAULTS, source: "b", mode: "v1", keep_ratio: 0.1, overwrite: true });
    assert.equal(shown(node).at(-2), "overwrite");
});

test("what is saved has the server's order, and comes back", () => {
    const node = makeNode();
    type(node, "recipe", "fast");
    type(node, "source", "c");
    const saved = node.serialize();
    assert.deepEqual(saved.widgets_values, ["c", "int8", 0.25, "", false, true, "", "fast"]);
    const again = makeNode();
    again.configure(structuredClone(saved));
    assert.deepEqual(values(again), values(node));
    assert.deepEqual(again.serialize().widgets_values, saved.widgets_values);
});

test("the button unfolds all fields, which is saved", () => {
    const node = makeNode();
    widget(node, "more fields").callback();
    assert.equal(shown(node).length, NAMES.length + 1);
    const again = makeNode();
    again.configure(structuredClone(node.serialize()));
    assert.equal(shown(again).length, NAMES.length + 1);
    const height = again.size[1];
    widget(again, "fewer fields").callback();
    assert.equal(shown(again).length, 5);
    assert.ok(again.size[1] < height);
});
