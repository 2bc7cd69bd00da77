"""HSWQ Quantize on the page: the recipe first, few fields, and older workflows as they were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import QUICK_START
from tests.support.page import ComfyPage
from tests.support.server import ComfyServer

FIRST_FIELDS = ["recipe", "source", "mode", "keep_ratio", "selection", "rounding", "filename", "more fields"]
FOLDED = {"budget", "target", "rotate", "scales", "part", "force_keep", "force_quantize", "overwrite"}
QUANTIZE = "window.app.graph._nodes.find((n) => n.type === 'HSWQQuantize')"
# Fields by name, those that are shown in their order; a view of ours is no field.
SHOWN = f"() => {QUANTIZE}.widgets.filter((w) => !w.hidden && w.type !== 'hswq').map((w) => w.name)"
TRACKER = "window.app.extensionManager.workflow.activeWorkflow.changeTracker"
# What the page does after every click.
CAPTURE = f"() => {{ const t = {TRACKER}; (t.captureCanvasState ?? t.checkState).call(t); }}"
VALUES = f"() => Object.fromEntries({QUANTIZE}.widgets.map((w) => [w.name, w.value]))"


def new_node(page: ComfyPage) -> None:
    page.page.evaluate(
        "() => { const node = window.LiteGraph.createNode('HSWQQuantize'); node.pos = [100, 100];"
        " window.app.graph.add(node); }"
    )
    page.look_at(-100, -100, 1.0)


def shown(page: ComfyPage) -> list[str]:
    return page.page.evaluate(SHOWN)


def values(page: ComfyPage) -> dict[str, Any]:
    return page.page.evaluate(VALUES)


def press_more(page: ComfyPage) -> None:
    page.page.evaluate(f"() => {{ const n = {QUANTIZE}; n.widgets.find((w) => w.type === 'button').callback(); }}")
    page.page.wait_for_timeout(500)
    page.page.evaluate(CAPTURE)


def elements(page: ComfyPage) -> str:
    """What is read on the node where it is an element of the page."""
    number = page.page.evaluate(f"() => {QUANTIZE}.id")
    return page.page.locator(f"[data-node-id='{number}']").inner_text()


def test_a_new_node_shows_the_best_recipe_first_and_few_fields(
    page: ComfyPage, server: ComfyServer, renderer: str
) -> None:
    new_node(page)
    assert shown(page) == FIRST_FIELDS
    best = server.get("/hswq/recipes")
    found = values(page)
    assert found["recipe"] == best["default"] == "best quality"
    assert {name: found[name] for name in best["recipes"]["best quality"]} == best["recipes"]["best quality"]
    if renderer == "vue":
        text = elements(page)
        assert text.index("recipe") < text.index("source") < text.index("more fields")
        assert not any(name in text for name in ("force keep", "overwrite", "scales"))


def test_every_recipe_sets_its_fields_and_a_change_makes_it_custom(page: ComfyPage, server: ComfyServer) -> None:
    new_node(page)
    for name, decided in server.get("/hswq/recipes")["recipes"].items():
        page.set("HSWQQuantize", {"recipe": name})
        found = values(page)
        assert {field: found[field] for field in decided} == decided, name
        assert found["recipe"] == name
    page.set("HSWQQuantize", {"recipe": "fast"})
    assert "rotate" in shown(page), "what a recipe sets is seen"
    page.set("HSWQQuantize", {"keep_ratio": 0.1, "filename": "mine"})
    assert page.value("HSWQQuantize", "recipe") == "fast"
    page.set("HSWQQuantize", {"rounding": "nearest"})
    assert page.value("HSWQQuantize", "recipe") == "custom"
    assert page.value("HSWQQuantize", "mode") == "int8"


def test_fields_unfold_fold_and_stay_so_after_a_refresh(page: ComfyPage, renderer: str) -> None:
    page.drop(QUICK_START)
    kept = {"overwrite"}  # the quick start replaces its file
    assert set(shown(page)) == {*FIRST_FIELDS, *kept}
    press_more(page)
    unfolded = {*FIRST_FIELDS, *FOLDED, "fewer fields"} - {"more fields"}
    assert set(shown(page)) == unfolded
    if renderer == "vue":
        assert "force keep" in elements(page) and "fewer fields" in elements(page)
    page.page.wait_for_timeout(1500)
    page.open()
    page.page.wait_for_function("() => window.app.graph._nodes.length > 10", timeout=30_000)
    assert set(shown(page)) == unfolded
    press_more(page)
    assert set(shown(page)) == {*FIRST_FIELDS, *kept}
    if renderer == "vue":
        assert "force keep" not in elements(page)


def older_workflow(tmp_path: Path) -> tuple[Path, list[Any]]:
    """The quick start as it was saved before there was a recipe, with values of its own."""
    workflow = json.loads(QUICK_START.read_text(encoding="utf-8"))
    quantize = next(node for node in workflow["nodes"] if node["type"] == "HSWQQuantize")
    # source, mode, keep ratio, selection, rounding, filename, budget, overwrite, patterns, scales, part, rotate, target
    saved = ["(the calibrated model)", "v2", 0.1, "variance", "nearest", "old", "70%", True, "*.to_v", "", "channel",
             "unet", False, ""]  # fmt: skip
    quantize["widgets_values"] = saved
    quantize["inputs"] = [socket for socket in quantize["inputs"] if socket["name"] != "recipe"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path, saved


def test_an_older_workflow_keeps_its_values(page: ComfyPage, tmp_path: Path) -> None:
    path, saved = older_workflow(tmp_path)
    page.drop(path)
    found = values(page)
    assert found["recipe"] == "custom"
    names = ["source", "mode", "keep_ratio", "selection", "rounding", "filename", "budget", "overwrite", "force_keep",
             "force_quantize", "scales", "part", "rotate", "target"]  # fmt: skip
    assert [found[name] for name in names] == saved
    assert {"budget", "overwrite", "force_keep", "scales"} <= set(shown(page)), "what has a value is not folded"
    queued = page.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (inputs,) = (entry["inputs"] for entry in queued.values() if entry["class_type"] == "HSWQQuantize")
    assert {name: inputs[name] for name in names} == dict(zip(names, saved, strict=True))
    assert inputs["recipe"] == "custom" and "more fields" not in inputs


def test_what_is_saved_has_the_servers_order_and_is_read_again(page: ComfyPage, server: ComfyServer) -> None:
    new_node(page)
    page.set("HSWQQuantize", {"recipe": "fast", "filename": "mine", "force_keep": "*.to_q"})
    before = values(page)
    saved = page.page.evaluate("() => window.app.graph.serialize()")
    (node,) = saved["nodes"]
    info = server.get("/object_info/HSWQQuantize")["HSWQQuantize"]["input_order"]
    fields = [name for name in (*info["required"], *info["optional"]) if name in before]
    assert node["widgets_values"] == [before[name] for name in fields]
    page.clear()
    page.drop(saved)
    again = values(page)
    assert {name: again[name] for name in fields} == {name: before[name] for name in fields}
    copied = page.page.evaluate(
        f"() => {{ const copy = {QUANTIZE}.clone();"
        " return Object.fromEntries(copy.widgets.map((w) => [w.name, w.value])); }"
    )
    assert {name: copied[name] for name in fields} == {name: before[name] for name in fields}


@pytest.mark.parametrize("field", ["recipe", "mode"])
def test_an_undo_takes_the_recipe_and_its_fields_back(page: ComfyPage, field: str) -> None:
    page.drop(QUICK_START)
    before = values(page)
    page.page.evaluate(CAPTURE)
    page.set("HSWQQuantize", {field: "for everyone" if field == "recipe" else "comfy"})
    page.page.evaluate(CAPTURE)
    assert values(page) != before
    page.page.evaluate(f"async () => {TRACKER}.undo()")
    page.page.wait_for_timeout(1000)
    after = values(page)
    assert {name: after[name] for name in before} == before
