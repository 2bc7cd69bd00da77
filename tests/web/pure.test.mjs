// What the page's modules compute, without a page. Run by tests/web/test_modules.py, or `node --test tests/web`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { describe, moveOldSwitch } from "../../web/hswq/badge.js";
import { CHOICES, labelChoices } from "../../web/hswq/choices.js";
import { filesBehind, heights, keptCount, keptLayers, ratioAt, sessionOf, sizeAt } from "../../web/hswq/curve.js";
import { budgetAt, errorAt, layersInWords, logRange, placeOf, shown } from "../../web/hswq/error_curve.js";
import { describeEstimate } from "../../web/hswq/estimate.js";
import { duration, percent, size } from "../../web/hswq/format.js";
import { around, below, spread, TITLE, topOf, view } from "../../web/hswq/layout.js";
import { MESSAGES } from "../../web/hswq/messages.js";
import { describeProgress } from "../../web/hswq/progress.js";
import { isOurs, isQuantized, readHeader } from "../../web/hswq/safetensors.js";
import { sentenceOf } from "../../web/hswq/verdict.js";
import { say, setLanguage, WORDS } from "../../web/hswq/words.js";

const curve = { layers: ["a", "b", "c", "d"], sensitivity: [1, 1e-1, 1e-3, 0], sizes: [100, 110, 130, 131, 140] };

test("a ratio keeps as many layers as the plan does: rounded up", () => {
    assert.deepEqual([0, 0.01, 0.25, 0.26, 1].map((r) => keptCount(curve, r)), [0, 1, 1, 2, 4]);
    assert.equal(keptCount({ layers: Array(30) }, 0.1), 3);
    assert.equal(keptCount({ layers: Array(175) }, 0.28), 49);
});

test("sizes and layers follow the count, or the budget", () => {
    assert.deepEqual([0, 0.25, 0.5, 1].map((r) => sizeAt(curve, r)), [100, 110, 130, 140]);
    assert.deepEqual([...keptLayers(curve, 0.5)], ["a", "b"]);
    assert.deepEqual([...keptLayers({ ...curve, budgeted: true, planned_layers: ["c"] }, 0.5)], ["c"]);
});

test("places become ratios in steps of a hundredth, inside 0 and 1", () => {
    assert.deepEqual([-1, 0.1249, 0.5, 3].map(ratioAt), [0, 0.12, 0.5, 1]);
});

test("heights are logarithmic, and a sensitivity of zero is no trouble", () => {
    const found = heights(curve.sensitivity);
    assert.equal(found[0], 1);
    assert.ok(found[1] < 1 && found[2] < found[1] && found[3] >= 0.04 && found.every(Number.isFinite));
    assert.ok(heights([5, 5]).every(Number.isFinite));
});

test("the session is found over the graph", () => {
    const widget = (name, value) => ({ widgets: [{ name, value }] });
    const nodes = {
        1: { comfyClass: "HSWQCalibrate", ...widget("session", "mine") },
        2: { comfyClass: "HSWQMeasureSensitivity", inputs: [{ name: "stats", link: 10 }] },
        3: { comfyClass: "HSWQMergeStatistics" },
        4: { comfyClass: "HSWQLoadStatistics", ...widget("file", "old.safetensors") },
        5: { type: "Reroute", inputs: [{ name: "", link: 12 }] },
    };
    const graph = {
        links: { 10: { origin_id: 1 }, 11: { origin_id: 3 }, 12: { origin_id: 4 }, 13: { origin_id: 2 }, 14: { origin_id: 5 } },
        getNodeById: (id) => nodes[id],
    };
    for (const node of Object.values(nodes)) node.graph = graph;
    const quantize = (link) => ({ graph, inputs: [{ name: "stats", link }] });
    assert.equal(sessionOf(quantize(10)), "mine");
    assert.equal(sessionOf(quantize(13)), "mine");
    assert.equal(sessionOf(quantize(14)), "old.safetensors");
    assert.equal(sessionOf(quantize(11)), null);
    assert.equal(sessionOf(quantize(null)), null);
});

test("the checkpoint is found behind what calibrates it", () => {
    const nodes = {
        1: { comfyClass: "CheckpointLoaderSimple", widgets: [{ name: "ckpt_name", value: "a.safetensors" }] },
        2: { comfyClass: "LoraLoaderModelOnly", inputs: [{ name: "model", link: 10 }], widgets: [] },
        3: { comfyClass: "HSWQCalibrate", inputs: [{ name: "model", link: 11 }], widgets: [] },
        4: { comfyClass: "HSWQMergeStatistics", inputs: [{ name: "a", link: null }] },
    };
    const links = { 10: { origin_id: 1 }, 11: { origin_id: 2 }, 12: { origin_id: 3 }, 13: { origin_id: 4 } };
    const graph = { links, getNodeById: (id) => nodes[id] };
    for (const node of Object.values(nodes)) node.graph = graph;
    const quantize = (link) => ({ graph, inputs: [{ name: "stats", link }] });
    assert.deepEqual(filesBehind(quantize(12)), ["a.safetensors"]);
    assert.deepEqual(filesBehind(quantize(13)), []);
    nodes[5] = { graph, type: "CheckpointLoaderSimple", widgets: [{ name: "ckpt_name", value: "b.safetensors" }] };
    nodes[6] = { graph, type: "ModelMergeSimple", inputs: [{ name: "model1", link: 10 }, { name: "model2", link: 14 }] };
    Object.assign(links, { 14: { origin_id: 5 }, 15: { origin_id: 6 } });
    assert.deepEqual(filesBehind(quantize(15)), ["a.safetensors", "b.safetensors"]);
});

test("numbers read well", () => {
    assert.equal(size(3_412_345_678), "3.41 GB");
    assert.equal(size(9_220_000), "9.22 MB");
    assert.equal(percent(1, 3), "33.3 %");
    assert.deepEqual([5, 65, 7260].map(duration), ["5 s", "1 min 5 s", "2 h 1 min"]);
    const loaded = { format: "v2", quantized_layers: 157, grid: "FP8", other_layers: 18, dtype: "F16", nbytes: 7e6 };
    assert.deepEqual(describe(loaded), ["V2  ·  7.00 MB of weights", "157 layers in FP8, 18 in F16"]);
    assert.deepEqual(describe({ ...loaded, origin: "HSWQ 0.1.0, from A" })[2], "HSWQ 0.1.0, from A");
    assert.equal(describe({ ...loaded, predicted_error: 3.14e-5 })[0], "V2  ·  7.00 MB of weights  ·  predicted error 3.1e-5");
    const computing = { fast: 139, exact: { convolutions: 16, "not quantized": 2 } };
    const line = "139 layers multiply in 8 bits; exact: 16 convolutions, 2 not quantized";
    assert.equal(describe({ ...loaded, computing })[2], line);
    assert.equal(describe({ ...loaded, computing: { fast: 3, exact: {} } })[2], "3 layers multiply in 8 bits");
});

test("the switch of older workflows moves into compute, once", () => {
    const loader = (fp8, compute) => ({ widgets: [{ name: "fp8_matmul", value: fp8 }, { name: "compute", value: compute }] });
    for (const [fp8, compute, expected] of [[true, "exact", "fast"], [false, "exact", "exact"], [false, "fast", "fast"]]) {
        const node = loader(fp8, compute);
        moveOldSwitch(node);
        assert.deepEqual(node.widgets.map((w) => w.value), [false, expected]);
        assert.equal(node.widgets[0].hidden, true);
    }
    moveOldSwitch({ widgets: [] });
});

test("nodes of a column are moved down until none overlaps, others stay", () => {
    const nodes = [
        { x: 0, y: 100, width: 100, height: 50 },
        { x: 10, y: 0, width: 100, height: 90 },
        { x: 400, y: 20, width: 100, height: 500 },
    ];
    spread(nodes);
    assert.equal(nodes[1].y, 0);
    assert.ok(nodes[0].y >= 90 + TITLE);
    assert.equal(nodes[2].y, 20);
});

test("a group's title stands above its nodes' titles", () => {
    assert.equal(topOf({ y: -30 }, [{ y: 72 }, { y: 300 }]), -30);
    assert.ok(topOf({ y: -30 }, [{ y: 14 }]) <= 14 - TITLE - 36);
    assert.equal(topOf({ y: 5 }, []), 5);
});

test("the view shows all of a box", () => {
    const box = around([{ x: -20, y: 0, width: 100, height: 900, title: 30 }, { x: 0, y: -30, width: 2400, height: 90 }]);
    assert.deepEqual(box, { x: -20, y: -30, width: 2420, height: 930 });
    for (const [width, height] of [[1366, 768], [1920, 1080], [4000, 3000]]) {
        const { scale, offset } = view(box, width, height);
        const left = (box.x + offset[0]) * scale;
        const top = (box.y + offset[1]) * scale;
        assert.ok(left >= 79 && top >= 109 && scale <= 1);
        assert.ok(left + box.width * scale <= width - 39 && top + box.height * scale <= height - 89);
    }
});

test("every language has every sentence, with the same places to fill in", () => {
    const places = (sentence) => [...new Set(sentence.match(/\{\d\}/g) ?? [])].sort();
    for (const byLanguage of [WORDS, MESSAGES]) {
        const [first, ...others] = Object.values(byLanguage);
        for (const words of [first, ...others]) {
            assert.deepEqual(Object.keys(words).sort(), Object.keys(first).sort());
            for (const [english, sentence] of Object.entries(words)) assert.deepEqual(places(sentence), places(english));
        }
    }
});

test("choices are read in the page's language beside their values, which stay", () => {
    const values = (words) => Object.entries(words).map(([field, each]) => [field, Object.keys(each)]);
    assert.deepEqual(values(CHOICES.ja), values(CHOICES.zh));
    const combo = { name: "selection", type: "combo", value: "measured", options: {} };
    setLanguage("ja");
    labelChoices({ widgets: [combo] });
    assert.equal(combo.options.getOptionLabel(), "実測 (measured)");
    assert.equal(combo.options.getOptionLabel("a file of that name"), "a file of that name");
    assert.equal(combo.value, "measured");
    setLanguage("en");
    const english = { name: "selection", type: "combo", options: {} };
    labelChoices({ widgets: [english] });
    assert.deepEqual(english.options, {});
});

test("a sentence is in the page's language, or else in English", () => {
    const event = { image: 2, images: 4, step: 3, steps: 25, share: 0.5, seconds_left: 5 };
    assert.equal(describeProgress(event), "image 2 of 4, step 3 of 25, 5 s left");
    assert.equal(describeProgress({ doing: "measuring", share: 1, seconds_left: 0 }), "measuring the sensitivity of the layers, done");
    assert.equal(describeProgress({ doing: "rounding", share: 0.5, seconds_left: 70 }), "rounding the layers, 1 min 10 s left");
    setLanguage("ja");
    assert.equal(describeProgress(event), "画像 2/4、ステップ 3/25, 残り 5 s");
    assert.equal(say("no such sentence {0}", 1), "no such sentence 1");
    setLanguage("fr-FR");
    assert.equal(describeProgress(event), "image 2 of 4, step 3 of 25, 5 s left");
    setLanguage("en");
});

const errors = { sizes: [300, 400, 700, 1010], errors: [1e-3, 1e-4, 1e-6, 0], source_bytes: 1000 };

test("the curve of errors is shown up to the original's size, and where images may differ", () => {
    assert.deepEqual(shown(errors), [[300, 1e-3], [400, 1e-4], [700, 1e-6]]);
    assert.deepEqual([200, 300, 650, 1000, 1010].map((size) => placeOf(errors, size)), [0, 0, 0.5, 1, 1]);
    assert.deepEqual([299, 400, 699, 2000].map((size) => errorAt(errors, size)), [1e-3, 1e-4, 1e-4, 0]);
    assert.deepEqual(logRange(errors), [-6, -3]);
    assert.deepEqual(logRange({ ...errors, card_bytes: 650, card_error: 1e-2 }), [-6, -2], "the model card's point is in it");
});

test("a size that is dragged to is a budget that can be had", () => {
    assert.deepEqual([-1, 0, 0.5, 1].map((at) => budgetAt(errors, at)), ["30.0%", "30.0%", "65.0%", "100.0%"]);
    const odd = { ...errors, sizes: [333.33], source_bytes: 1000 };
    assert.ok((parseFloat(budgetAt(odd, 0)) / 100) * 1000 >= 333.33);
    assert.equal(layersInWords({ int6: 79, kept: 2 }), "79 int6, 2 kept");
});

test("a quantized file is known by its header, and what is no safetensors file is none", async () => {
    const file = (header) => {
        const text = new TextEncoder().encode(JSON.stringify(header));
        const length = new DataView(new ArrayBuffer(8));
        length.setBigUint64(0, BigInt(text.length), true);
        return new Blob([length.buffer, text, new Uint8Array(100)]);
    };
    const ours = await readHeader(file({ __metadata__: { "hswq.mode": "mixed" }, "a.weight": { dtype: "U8" } }));
    const other = await readHeader(file({ "a.weight": { dtype: "F8_E4M3" } }));
    const plain = await readHeader(file({ __metadata__: { format: "pt" }, "a.weight": { dtype: "F16" }, "b.codes": { dtype: "I8" } }));
    assert.deepEqual([ours, other, plain].map(isQuantized), [true, true, false]);
    assert.deepEqual([ours, other].map(isOurs), [true, false]);
    assert.deepEqual(await readHeader(new Blob(["no such file"])), {});
});

test("what is below the notes moves down as far as they grew, and nothing moves without them", () => {
    const others = [{ x: 0, y: 40, width: 10, height: 10, title: 30 }, { x: 0, y: 0, width: 10, height: 90 }];
    assert.equal(below([{ y: -200, height: 230 }, { y: -200, height: 100 }], others), 54);
    assert.equal(below([{ y: -200, height: 100 }], others), 0);
    assert.equal(below([], others), 0);
});

test("an estimate says what is known, and what is in the way", () => {
    const found = {
        least_bytes: 3e9, disk_free: 50e9, memory: 1.57e9, memory_of: "CPU", seconds: { rounding: 130 }, measuring: null,
    };
    assert.deepEqual(describeEstimate(found, 4.4e9, true), {
        text: "disk: 4.40 GB of 50.00 GB free  ·  RAM: 1.57 GB  ·  rounding about 2 min 10 s", problem: "",
    });
    assert.equal(
        describeEstimate({ ...found, seconds: { rounding: null } }, 4.4e9, true).text,
        "disk: 4.40 GB of 50.00 GB free  ·  RAM: 1.57 GB",
    );
    assert.ok(describeEstimate({ ...found, disk_free: 4e9 }, 4.4e9, true).problem.includes("not enough free space"));
    const measuring = { memory: 7e9, total: 6e9, memory_of: "card" };
    const unmeasured = { ...found, memory_of: "card", seconds: { measuring: 30, rounding: null }, measuring };
    const said = describeEstimate(unmeasured, null, true);
    assert.equal(
        said.text,
        "disk: at least 3.00 GB of 50.00 GB free  ·  VRAM: 1.57 GB  ·  measuring about 30 s  ·  measuring: 7.00 GB of 6.00 GB of VRAM",
    );
    assert.ok(said.problem.startsWith("measuring does not fit"));
    assert.deepEqual(describeEstimate(unmeasured, null, false), {
        text: "disk: at least 3.00 GB of 50.00 GB free  ·  VRAM: 1.57 GB", problem: "",
    });
});

test("a verdict is said as the server says it, and in the page's language", () => {
    const verdict = {
        found: [["Practically the same image in {0} of {1}", "3", "4"], ["another one in {0}", "1"]],
        basis: ["worst SSIM {0}", "0.20"], size: ["{0} {1} instead of {2}.", "4.4", "GB", "6.9"], action: null,
    };
    const text = "Practically the same image in 3 of 4, another one in 1 (worst SSIM 0.20). 4.4 GB instead of 6.9.";
    assert.equal(sentenceOf(verdict), text);
    setLanguage("ja");
    assert.equal(sentenceOf(verdict), "4 枚中 3 枚がほぼ同じ画像, 別の画像が 1 枚 (最低 SSIM 0.20). 6.9 GB が 4.4 GB に。");
    setLanguage("en");
});
