"""Results on the page: the verdict in one sentence everywhere, the proof that opens, and the images of HSWQ Compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator

from tests.support.page import ComfyPage
from tests.support.server import ComfyServer
from tests.support.workflows import TINY

NODE = "window.app.graph._nodes.find((n) => n.type === '{}')"


def graph(nodes: list[tuple[str, list[Any] | None, list[str]]], links: list[tuple[int, int, int, str, str]]) -> Any:
    """A workflow as the page saves it.

    Args:
        nodes: type, values of the fields (``None`` for their defaults) and types of the outputs; numbered from 1.
        links: from node, output, to node, input, type.
    """
    made = []
    for number, (kind, values, outputs) in enumerate(nodes, 1):
        entering = [(each, link) for each, link in enumerate(links, 1) if link[2] == number]
        leaving = {slot: [n for n, link in enumerate(links, 1) if link[:2] == (number, slot)] for slot in range(4)}
        made.append(
            {
                "id": number, "type": kind, "pos": [100 + 420 * (number > 2), 100 + 260 * (number % 3)],
                "size": [360, 240], "flags": {}, "order": number, "mode": 0, "properties": {},
                "inputs": [{"name": link[3], "type": link[4], "link": each} for each, link in entering],
                "outputs": [{"name": t, "type": t, "links": leaving[slot]} for slot, t in enumerate(outputs)],
            }
            | ({} if values is None else {"widgets_values": values})
        )  # fmt: skip
    slots = {number: [link for link in links if link[2] == number] for number in range(1, len(nodes) + 1)}
    wires = [
        [each, link[0], link[1], link[2], slots[link[2]].index(link), link[4]] for each, link in enumerate(links, 1)
    ]
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": made, "links": wires, "groups": [],
        "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def compared() -> Any:
    """Two images of 96 x 64 pixels, twice, of different colours."""
    nodes = [("EmptyImage", [96, 64, 2, colour], ["IMAGE"]) for colour in (0x3080C0, 0x3080D0)]
    links = [(1, 0, 3, "reference", "IMAGE"), (2, 0, 3, "candidate", "IMAGE")]
    return graph([*nodes, ("HSWQCompare", None, ["IMAGE", "FLOAT", "FLOAT", "STRING"])], links)


def said_by_server(server: ComfyServer) -> dict[str, Any]:
    """What the last run's verdict was."""
    latest = list(server.get("/history").values())[-1]["outputs"]
    return next(out["hswq_verdict"][0] for out in latest.values() if out.get("hswq_verdict"))


def stage_of(page: ComfyPage) -> Locator:
    stage = page.page.locator(".hswq-slider:visible")
    stage.wait_for(timeout=20_000)
    return stage


def number(stage: Locator, name: str) -> float:
    return float(stage.get_attribute(f"data-{name}") or 0)


def height(stage: Locator) -> float:
    box = stage.bounding_box()
    assert box is not None
    return box["height"]


def shown(stage: Locator) -> bool:
    """Whether both images have arrived."""
    return stage.evaluate("stage => [...stage.querySelectorAll('img')].every((image) => image.naturalWidth === 96)")


def test_compare_grows_zooms_and_fills_the_screen(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    page.drop(compared())
    assert page.run() == "success"
    page.frame_node("HSWQCompare", 1.0)
    stage = stage_of(page)
    assert page.page.locator(".hswq-sentence:visible").inner_text() == said_by_server(server)["text"]
    assert page.page.locator(".hswq-label:visible").all_inner_texts() == ["reference", "candidate"]
    assert page.page.locator(".hswq-figures:visible").inner_text().startswith("image 1 of 2")
    page.page.locator(".hswq-next:visible").click()
    assert page.page.locator(".hswq-figures:visible").inner_text().startswith("image 2 of 2")

    before = height(stage)
    assert before > 200
    page.page.evaluate(f"() => {NODE.format('HSWQCompare')}.setSize([620, 860])")
    page.frame_node("HSWQCompare", 1.0)  # and the page draws anew
    if height(stage) == before:  # older pages give no view the room of a node that is an element: by its corner, then
        box = stage.bounding_box()
        assert box is not None and renderer == "vue"
        page.page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] + 200, steps=4)
        page.page.mouse.up()
    assert height(stage) > before + 100

    scale = page.page.evaluate("() => window.app.canvas.ds.scale")
    stage.hover()
    page.page.mouse.wheel(0, -400)
    page.page.wait_for_timeout(300)
    assert number(stage, "zoom") > 2 and number(stage, "scale") > 2 * number(stage, "zoom")
    assert page.page.evaluate("() => window.app.canvas.ds.scale") == scale, "the canvas is not zoomed along"
    page.page.locator(".hswq-fit:visible").click()
    assert number(stage, "zoom") == 1
    page.page.locator(".hswq-full:visible").click()
    page.page.wait_for_function("() => document.fullscreenElement?.classList.contains('hswq-whole')", timeout=5000)
    page.page.wait_for_timeout(300)
    assert height(stage) > 900
    page.page.evaluate("() => document.exitFullscreen()")


def test_what_compare_shows_stays_through_a_refresh_and_undo(page: ComfyPage, server: ComfyServer) -> None:
    page.drop(compared())
    assert page.run() == "success"
    stage_of(page)
    page.page.evaluate(f"() => {{ {NODE.format('EmptyImage')}.widgets[0].value = 128; }}")
    page.page.evaluate(
        "async () => { const t = window.app.extensionManager.workflow.activeWorkflow.changeTracker;"
        " (t.captureCanvasState ?? t.checkState).call(t); await t.undo(); }"
    )
    page.page.wait_for_timeout(1500)
    assert page.value("EmptyImage", "width") == 96, "it was undone"
    assert shown(stage_of(page))
    page.page.wait_for_timeout(1500)
    page.open()
    page.page.wait_for_function("() => window.app.graph._nodes.length === 3", timeout=30_000)
    page.frame_node("HSWQCompare", 1.0)
    assert shown(stage_of(page))
    assert page.page.locator(".hswq-sentence:visible").inner_text() == said_by_server(server)["text"]
    for path in (server.base / "temp").glob("hswq_*"):
        path.unlink()
    page.open()
    page.page.wait_for_function("() => window.app.graph._nodes.length === 3", timeout=30_000)
    page.frame_node("HSWQCompare", 1.0)
    gone = page.page.locator(".hswq-gone:visible")
    gone.wait_for(timeout=20_000)
    assert "warn" not in (gone.get_attribute("class") or "")
    page.errors.clear()  # the browser's own word of an image that is not there


def test_the_proof_opens_and_says_what_the_node_says(page: ComfyPage, server: ComfyServer) -> None:
    kinds = ["MODEL", "CLIP", "VAE"]
    nodes = [("CheckpointLoaderSimple", [TINY], kinds)] * 2
    links = [(1, 0, 3, "reference", "MODEL"), (2, 0, 3, "candidate", "MODEL")]
    links += [(1, 1, 3, "clip", "CLIP"), (1, 2, 3, "vae", "VAE")]
    page.drop(graph([*nodes, ("HSWQProve", None, ["IMAGE", "STRING", "STRING"])], links))
    page.set("HSWQProve", {"prompts": "apple", "seeds": 1, "steps": 2, "cfg": 2.0, "width": 256, "height": 256})
    assert page.run() == "success"
    page.frame_node("HSWQProve", 1.0)
    sentence = page.page.locator(".hswq-sentence:visible")
    sentence.wait_for(timeout=20_000)
    found = said_by_server(server)
    proof = server.output / found["file"]["subfolder"] / "proof.json"
    assert sentence.inner_text() == found["text"] == json.loads(proof.read_text("utf-8"))["verdict"]
    with page.page.expect_popup() as opening:
        page.page.locator(".hswq-open:visible").click()
    frame = opening.value.frame_locator("iframe")
    assert frame.locator(".verdict").inner_text() == found["text"]
    assert frame.locator("body").evaluate("() => { try { return !parent.document; } catch { return true; } }"), (
        "it cannot reach ComfyUI"
    )
    opening.value.close()
    assert Path(proof).with_name("proof.html").is_file()
