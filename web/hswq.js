// What the page shows on HSWQ's nodes: progress, the keep-ratio chart, the image slider, the loaders' badge.
// An extra: without it the nodes are the same, and every view takes its state from the server alone.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { attachBadge } from "./hswq/badge.js";
import { attachChart } from "./hswq/chart.js";
import { attachDoctor } from "./hswq/doctor.js";
import { attachProgress } from "./hswq/progress.js";
import { attachPublished } from "./hswq/publish.js";
import { attachSlider } from "./hswq/slider.js";
import { labelChoices } from "./hswq/choices.js";
import { attachVerdict } from "./hswq/verdict.js";
import { openDropped } from "./hswq/dropped.js";
import { renewLists } from "./hswq/lists.js";
import { keepTranslations } from "./hswq/translations.js";
import { command, commandsOf, menuOf } from "./hswq/quantize_menu.js";
import { setLanguage } from "./hswq/words.js";
import { openExample } from "./hswq/example.js";
import { arrangeFields } from "./hswq/fields.js";
import { attachRecipe, loadRecipes } from "./hswq/recipe.js";

const VIEWS = {
    HSWQCalibrate: attachProgress,
    HSWQCalibrateRun: attachProgress,
    HSWQCompare: attachSlider,
    HSWQDiffusionModelLoader: attachBadge,
    HSWQDoctor: attachDoctor,
    HSWQLoader: attachBadge,
    HSWQMeasureSensitivity: attachProgress,
    HSWQProve: attachVerdict,
    HSWQPublish: attachPublished,
    HSWQQuantize: attachQuantize,
};

function attachQuantize(node, api) {
    const fold = arrangeFields(node);
    attachRecipe(node, fold);
    attachChart(node, api);
}

/** Let the page keep what has just been put into a node's properties, as it keeps what the user does. */
function noteChange() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

app.registerExtension({
    name: "hswq",
    commands: [command(app, api)],
    getSelectionToolboxCommands: commandsOf,
    // Without either a node is the same: its fields are free, and have their English names.
    init: () => Promise.allSettled([loadRecipes(api), keepTranslations(app, api)]),
    setup() {
        openDropped(app, api);
        renewLists(app, api);
    },
    getNodeMenuItems(node) {
        setLanguage(app.extensionManager?.setting?.get("Comfy.Locale"));
        return menuOf(node, app, api);
    },
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("HSWQ")) return;
        setLanguage(app.extensionManager?.setting?.get("Comfy.Locale"));
        labelChoices(node);
        VIEWS[node.comfyClass]?.(node, api, noteChange);
    },
    afterConfigureGraph() {
        openExample(app);
    },
});
