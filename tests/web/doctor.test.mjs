// What stands above HSWQ Doctor's report, with no page but a stand-in for its elements.

import assert from "node:assert/strict";
import { test } from "node:test";

import { headLines } from "../../web/hswq/doctor.js";
import { setLanguage } from "../../web/hswq/words.js";

globalThis.document = {
    createElement: (tag) => ({ tag, children: [], append(...children) { this.children.push(...children); } }),
};

const shown = (told) => headLines(told).map((line) => [line.className, ...line.children]);

test("the verdict is first, and what is wrong stands out", () => {
    const lines = shown({ verdict: "V2; DAMAGED", warnings: ["a scale is missing"], notes: [], text: "" });
    assert.deepEqual(lines, [["hswq-sentence", "V2; DAMAGED"], ["warn", "a scale is missing"]]);
});

test("a refusal of a file that is well is a note", () => {
    const lines = shown({ verdict: "int8", warnings: [], notes: ["its own loaders: refuses"], text: "" });
    assert.deepEqual(lines.slice(1), [["note", "nothing is wrong with this file"], ["note", "its own loaders: refuses"]]);
});

test("that nothing is wrong is said in the page's language", () => {
    const well = { verdict: "V2", warnings: [], notes: [], text: "" };
    assert.deepEqual(shown(well)[1], ["note", "nothing is wrong with this file"]);
    setLanguage("zh-CN");
    assert.deepEqual(shown(well)[1], ["note", "此文件没有问题"]);
    setLanguage("en");
});
