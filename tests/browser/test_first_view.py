"""What is seen of an example workflow before anything is touched."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from showcase.screenshots import small_and_fast
from tests.support.examples import EXAMPLES, QUICK_START
from tests.support.page import ComfyPage

SIZES = ((1920, 1080), (1366, 768))
# Below this the page leaves out all text of nodes: letters of 14 pixels would have less than 8.
LEGIBLE = 8 / 14
# Every node's place on the page, title included: as drawn on the canvas, or as the element that it is.
PLACES = """() => {
    const { scale, offset } = window.app.canvas.ds;
    return window.app.graph._nodes.map((node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (element) {
            const { left, top, right, bottom } = element.getBoundingClientRect();
            return { title: node.title, left, top, right, bottom };
        }
        const left = (node.pos[0] + offset[0]) * scale, top = (node.pos[1] - 30 + offset[1]) * scale;
        return {
            title: node.title, left, top, right: left + node.size[0] * scale, bottom: top + (node.size[1] + 30) * scale,
        };
    });
}"""


def overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return across > 1 and down > 1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_all_of_it_is_in_view_and_nothing_lies_on_another(page: ComfyPage, path: Path) -> None:
    try:
        for width, height in SIZES:
            page.page.set_viewport_size({"width": width, "height": height})
            page.drop(path)
            page.page.wait_for_timeout(2500)
            places = page.page.evaluate(PLACES)
            assert len(places) == len(json.loads(path.read_text(encoding="utf-8"))["nodes"])
            for place in places:
                assert place["left"] >= 50 and place["right"] <= width, (width, place)
                assert place["top"] >= 60 and place["bottom"] <= height - 20, (height, place)
            if width == SIZES[0][0]:
                scale = page.page.evaluate("() => window.app.canvas.ds.scale")
                assert scale > LEGIBLE, (path.stem, scale)
            for a, b in itertools.combinations(places, 2):
                assert not overlap(a, b), (width, a, b)
    finally:
        page.page.set_viewport_size({"width": 1960, "height": 1120})


def test_in_japanese_notes_groups_and_views_are_japanese(page: ComfyPage) -> None:
    page.language("ja")
    try:
        page.drop(QUICK_START)
        page.page.wait_for_timeout(1500)
        titles = page.page.evaluate("() => window.app.graph._groups.map((group) => group.title)")
        assert titles[0].startswith("1  サンプリング") and titles[3] == "4  比べる"
        note = "() => window.app.graph._nodes.find((n) => n.type === 'MarkdownNote').widgets[0].value"
        assert page.page.evaluate(note).startswith("# チェックポイントを 8 ビットに")
        said = page.page.locator(".hswq-size:visible").first.inner_text()
        assert said.startswith("モデルをキャリブレーション")
        assert page.value("HSWQQuantize", "keep_ratio", "label") == "保持率", "notes name fields as the page does"
    finally:
        page.language("en")


def test_the_screenshots_prompt_is_not_the_negative_prompt_too(page: ComfyPage) -> None:
    page.drop(QUICK_START)
    small_and_fast(page, "fox face")
    texts = page.page.evaluate(
        """() => Object.fromEntries(window.app.graph._nodes.filter((n) => n.type === "CLIPTextEncode")
            .map((n) => [n.title, n.widgets.find((w) => w.name === "text").value]))"""
    )
    assert texts == {"Prompt": "fox face", "Negative prompt": ""}
