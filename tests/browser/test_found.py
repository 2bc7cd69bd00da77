"""How a user comes to the nodes: from a loader's menu, by a dropped file, by what the search and the menus offer."""

import base64
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hswq_core import quantize
from tests.support.examples import QUICK_START
from tests.support.page import ComfyPage
from tests.support.server import TINY_CHECKPOINT, ComfyServer

ADD_LOADER = """() => {
    const node = window.LiteGraph.createNode("CheckpointLoaderSimple");
    node.pos = [300, 260];
    window.app.graph.add(node);
    return node.id;
}"""
CHOOSE = """async () => {
    const node = window.app.graph._nodes[0];
    const item = window.app.collectNodeMenuItems(node).find((each) => each?.content === "Quantize with HSWQ");
    await item.callback();
}"""
DROP = """([name, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    const canvas = document.querySelector("#graph-canvas") ?? document.querySelector("canvas");
    const at = { bubbles: true, cancelable: true, clientX: 800, clientY: 500 };
    canvas.dispatchEvent(new DragEvent("drop", { dataTransfer: data, ...at }));
}"""
LINKS = """() => {
    const graph = window.app.graph;
    return [...(graph._links ?? graph.links).values()].map((link) => {
        const from = graph.getNodeById(link.origin_id), to = graph.getNodeById(link.target_id);
        return [from.type, from.outputs[link.origin_slot].name, to.type, to.inputs[link.target_slot].name];
    });
}"""
OVERLAPS = """() => {
    const nodes = window.app.graph._nodes;
    const meet = (a, b) => a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0]
        && a.pos[1] - 30 < b.pos[1] + b.size[1] && b.pos[1] - 30 < a.pos[1] + a.size[1];
    return nodes.flatMap((a, i) => nodes.slice(i + 1).filter((b) => meet(a, b)).map((b) => [a.title, b.title]));
}"""


pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized file that lies nowhere in ComfyUI's folders."""
    target = tmp_path_factory.mktemp("dropped") / "dropped_v2.safetensors"
    quantize(TINY_CHECKPOINT, target, mode="v2", keep_ratio=0.0, part="text_encoders")
    return target


def drop(page: ComfyPage, path: Path) -> None:
    page.page.evaluate(DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])


def test_quantize_with_hswq_puts_the_quick_start_behind_a_loader(page: ComfyPage, server: ComfyServer) -> None:
    page.page.evaluate(ADD_LOADER)
    page.page.evaluate(CHOOSE)
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate(OVERLAPS) == []
    workflow = json.loads(QUICK_START.read_text(encoding="utf-8"))
    expected = [node["type"] for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
    assert sorted(page.page.evaluate("() => window.app.graph._nodes.map((n) => n.type)")) == sorted(expected)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    wanted = [
        [by_id[a]["type"], by_id[a]["outputs"][out]["name"], by_id[b]["type"], by_id[b]["inputs"][into]["name"]]
        for _, a, out, b, into, _ in workflow["links"]
    ]
    assert sorted(page.page.evaluate(LINKS)) == sorted(wanted)
    queued = page.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    given = next(entry["inputs"] for entry in queued.values() if entry["class_type"] == "HSWQQuantize")
    loaders = [key for key, entry in queued.items() if entry["class_type"] == "CheckpointLoaderSimple"]
    assert [given["clip"], given["vae"]] == [[*loaders, 1], [*loaders, 2]]


def test_a_loader_offers_it(page: ComfyPage, renderer: str) -> None:
    page.page.evaluate(ADD_LOADER)
    page.look_at(0, 0, 1.0)
    # Where nodes are elements not every page has others' items in their menus: it is among the buttons above, too.
    page.page.mouse.click(420, 245, button="right" if renderer == "canvas" else "left")
    place = "text=Quantize with HSWQ" if renderer == "canvas" else "button:has(.pi-box)"
    page.page.locator(place).first.click(timeout=5000)
    page.page.wait_for_function("() => window.app.graph._nodes.length > 10", timeout=10_000)


def test_a_dropped_quantized_file_opens_in_our_loader(page: ComfyPage, server: ComfyServer, quantized: Path) -> None:
    drop(page, quantized)
    page.page.get_by_text("move it to models/checkpoints").first.wait_for(timeout=10_000)
    assert page.page.evaluate("() => window.app.graph._nodes.length") == 0
    target = server.checkpoints / quantized.name
    shutil.copy(quantized, target)
    try:
        drop(page, quantized)
        page.page.wait_for_function("() => window.app.graph._nodes.length === 1", timeout=10_000)
        assert page.value("HSWQLoader", "ckpt_name") == quantized.name
    finally:
        target.unlink()


def test_a_file_that_is_not_quantized_is_left_to_the_page(page: ComfyPage, tmp_path: Path) -> None:
    page.page.evaluate("() => { window.handed = []; window.app.handleFile = (file) => window.handed.push(file.name); }")
    plain = tmp_path / "plain.safetensors"
    save_file({"a.weight": torch.ones(2, 2)}, plain)
    drop(page, plain)
    page.page.wait_for_function("() => window.handed.length === 1", timeout=10_000)
    page.page.evaluate("() => { delete window.app.handleFile; }")
    assert page.page.evaluate("() => window.app.graph._nodes.length") == 0
