"""From an opened page to a verdict: few clicks, one decision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import TimeoutError

from tests.browser.test_page import QUICK_START
from tests.support.page import ComfyPage
from tests.support.server import TINY_CHECKPOINT, ComfyServer

MOST_CLICKS = 5
MINE = "my_model.safetensors"
COUNT = """() => {
    window.pressed = 0;
    window.addEventListener("pointerdown", () => (window.pressed += 1), { capture: true });
}"""
# The middle of the field on the page, where nodes are drawn on its canvas.
FIELD = """() => {
    const canvas = window.app.canvas;
    const node = window.app.graph._nodes.find((each) => each.type === "CheckpointLoaderSimple");
    const widget = node.widgets.find((each) => each.name === "ckpt_name");
    const { left, top } = canvas.canvas.getBoundingClientRect();
    const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
    return [left + (x + canvas.ds.offset[0]) * canvas.ds.scale, top + (y + canvas.ds.offset[1]) * canvas.ds.scale];
}"""


def quick_start(name: str) -> dict[str, Any]:
    """The quick start as it is shipped, for a model of 256 pixels in few steps."""
    workflow = json.loads(QUICK_START.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "EmptyLatentImage":
            values[:2] = 256, 256
        elif node["type"] == "KSampler":
            values[2:4] = 3, 2.0
        elif node["type"] == "HSWQCalibrate":
            values[0] = name
    return workflow


def choose_checkpoint(page: ComfyPage, renderer: str) -> None:
    if renderer == "vue":
        number = page.page.evaluate(
            "() => window.app.graph._nodes.find((each) => each.type === 'CheckpointLoaderSimple').id"
        )
        page.page.locator(f"[data-node-id='{number}']").get_by_text(".safetensors").click()
        page.page.wait_for_timeout(500)
        try:
            page.page.get_by_text(MINE, exact=True).last.click(timeout=3000)
        except TimeoutError:  # on 1.32 the list hangs behind the next node
            page.page.keyboard.type(MINE[:2])
            page.page.keyboard.press("Enter")
    else:
        page.page.mouse.click(*page.page.evaluate(FIELD))
        page.page.locator(".litecontextmenu .litemenu-entry").get_by_text(MINE).click()
    assert page.value("CheckpointLoaderSimple", "ckpt_name") == MINE


def test_a_verdict_within_five_clicks_and_one_decision(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    mine = server.checkpoints / MINE
    shutil.copyfile(TINY_CHECKPOINT, mine)
    try:
        page.open()
        page.clear()
        page.page.evaluate(COUNT)
        page.drop(quick_start(f"minute-{renderer}"))  # one
        page.page.wait_for_timeout(2500)
        choose_checkpoint(page, renderer)  # the decision
        assert page.run(begin=page.press_run) == "success"
        assert 1 + page.page.evaluate("() => window.pressed") <= MOST_CLICKS
        seen = page.page.locator(".hswq-sentence:visible")
        sentences = seen.all_inner_texts()
        assert len(sentences) == 2, "of the file that was written, and of the image"
        assert all(text.startswith("Practically the same image") for text in sentences)
        assert "MB instead of" in sentences[0] and "SSIM 0.9" in sentences[1]
        assert [seen.nth(each).get_attribute("data-tone") for each in range(2)] == ["good", "good"]
        assert list((server.output / "checkpoints").glob("my_model_hswq_*.safetensors"))
    finally:
        for file in (mine, *Path(server.output / "checkpoints").glob("my_model_hswq_*")):
            file.unlink()
        page.open()
