// HSWQ Quantize: a recipe sets the fields that it decides, and whoever changes one of them has a recipe of their own.

import { isConnected, onChange, onConnections, setValue, widgetNamed } from "./widget.js";

const CUSTOM = "custom";
let known = { recipes: {}, default: CUSTOM };

/** What the server knows of recipes; to be there before the first node is made. */
export async function loadRecipes(api) {
    const response = await api.fetchApi("/hswq/recipes");
    if (response.ok) known = await response.json();
}

/**
 * Lets a node follow its recipe; a new one starts with the best. Values of a saved workflow come after this.
 *
 * ``applied`` is called when fields were set.
 */
export function attachRecipe(node, applied) {
    const recipe = widgetNamed(node, "recipe");
    if (!recipe) return;
    let isSetting = false;
    const decided = () => Object.entries(known.recipes[recipe.value] ?? {});

    function apply() {
        isSetting = true;
        for (const [name, value] of decided()) {
            const widget = widgetNamed(node, name);
            if (widget && widget.value !== value) setValue(widget, value);
        }
        isSetting = false;
        if (decided().length) applied();
    }

    /** A field that says something else, or gets its value from another node, is not the recipe's any more. */
    function check() {
        if (isSetting || !decided().some(([name, value]) => isOther(node, name, value))) return;
        setValue(recipe, CUSTOM);
    }

    onChange(recipe, apply);
    const fields = new Set(Object.values(known.recipes).flatMap(Object.keys));
    for (const name of fields) onChange(widgetNamed(node, name), check);
    onConnections(node, check);
    setValue(recipe, known.default);
}

function isOther(node, name, value) {
    const widget = widgetNamed(node, name);
    return widget !== undefined && (widget.value !== value || isConnected(node, name));
}
