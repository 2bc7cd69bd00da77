// What the page shows on HSWQ's nodes: progress, the keep-ratio chart, the image slider, the loaders' badge.
// An extra: without it the nodes are the same, and every view takes its state from the server alone.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { attachBadge } from "./hswq/badge.js";
import { attachChart } from "./hswq/chart.js";
import { attachProgress } from "./hswq/progress.js";
import { attachSlider } from "./hswq/slider.js";

const VIEWS = {
    HSWQCalibrate: attachProgress,
    HSWQCalibrateRun: attachProgress,
    HSWQCompare: attachSlider,
    HSWQDiffusionModelLoader: attachBadge,
    HSWQLoader: attachBadge,
    HSWQQuantize: attachChart,
};

app.registerExtension({
    name: "hswq",
    nodeCreated(node) {
        VIEWS[node.comfyClass]?.(node, api);
    },
});
