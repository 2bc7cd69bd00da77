"""What a user does and sees on the page, in Chromium."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, QUICK_START
from tests.support.graph import to_prompt
from tests.support.page import ComfyPage
from tests.support.server import REPOSITORY, ComfyServer
from tests.support.workflows import TINY

BLUEPRINTS = sorted((REPOSITORY / "subgraphs").glob("*.json"))


def small(page: ComfyPage, steps: int = 3, prompt: str = "fox face") -> None:
    """The tiny model at its size and speed, not a copy of it; the workflow as it is is for SDXL."""
    page.set("CheckpointLoaderSimple", {"ckpt_name": TINY})
    page.set("EmptyLatentImage", {"width": 256, "height": 256})
    page.set("KSampler", {"steps": steps, "cfg": 2.0})
    page.set("CLIPTextEncode", {"text": prompt})


def session_name(page: ComfyPage, name: str) -> None:
    page.set("HSWQCalibrate", {"session": name})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_opens(page: ComfyPage, server: ComfyServer, path: Path) -> None:
    page.drop(path)
    graph = json.loads(path.read_text(encoding="utf-8"))
    found = page.node_types()
    assert found == {node["type"]: True for node in graph["nodes"]}
    # What the page would queue: every value arrived in its own field, and the views are in no one's values.
    queued = page.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    expected = to_prompt(graph, server.get("/object_info"))
    for number in (str(node["id"]) for node in graph["nodes"] if "hswq_kind" in node["properties"]):
        expected[number]["inputs"].pop("ckpt_name", None)  # the page takes a file of that kind
    for node, entry in expected.items():
        given = {key: value for key, value in queued[node]["inputs"].items() if key in entry["inputs"]}
        assert given == entry["inputs"], entry["class_type"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_every_blueprint_is_offered_and_opens(page: ComfyPage, server: ComfyServer, path: Path) -> None:
    offered = {entry["name"] for entry in server.get("/global_subgraphs").values()}
    assert path.stem in offered
    page.drop(path)
    found = page.page.evaluate(
        "() => { const node = window.app.graph._nodes[0]; return {"
        " inputs: node.inputs.map((i) => i.name), outputs: node.outputs.map((o) => o.name),"
        " widgets: node.widgets.map((w) => w.name),"
        " inside: node.subgraph._nodes.map((n) => n.type),"
        " links: (node.subgraph._links ?? node.subgraph.links).size }; }"
    )
    (subgraph,) = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    sockets = [socket["name"] for socket in subgraph["inputs"]]
    assert found["inputs"][: len(sockets)] == sockets
    assert found["outputs"] == [socket["name"] for socket in subgraph["outputs"]]
    assert found["inside"] == [node["type"] for node in subgraph["nodes"]]
    assert found["links"] >= len(subgraph["links"]), "newer pages link fields, too"
    # Older pages put the node's number before the field's name.
    assert {"steps", "cfg"} <= {name.rpartition(": ")[2] for name in found["widgets"]}


def test_quick_start_from_drop_to_the_verdict(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    """Drop, choose, run, read; and after a refresh everything is told again."""
    page.drop(QUICK_START)
    page.page.wait_for_timeout(1200)
    session_name(page, f"quick-{renderer}")
    small(page)
    page.set("HSWQQuantize", {"filename": f"quick_{renderer}"})
    assert page.run() == "success"
    assert "done" in page.texts("hswq-progress")
    _check_what_is_told(page, f"quick_{renderer}.safetensors")
    page.page.wait_for_function(
        "(name) => window.app.graph._nodes.find((n) => n.type === 'HSWQLoader')"
        ".widgets.find((w) => w.name === 'ckpt_name').options.values.includes(name)",
        arg=f"quick_{renderer}.safetensors",
        timeout=10_000,
    )  # without R
    assert page.value("HSWQLoader", "ckpt_name", "disabled"), (
        "a path is connected: the file that the field shows is not the one that is opened"
    )

    # The predicted size is the size of the file.
    page.page.wait_for_selector(".hswq-size[data-bytes]", timeout=10_000)
    size = page.page.locator(".hswq-size:visible")
    report = json.loads(_report(server))
    predicted = int(size.get_attribute("data-bytes") or 0)
    assert abs(predicted - report["bytes"]) <= 1e-3 * report["bytes"]
    assert f"{report['kept_layers']} kept" in size.inner_text()
    assert f"predicted error {report['predicted_error']:.1e}".replace("e-0", "e-") in size.inner_text()

    # The slider divides where the pointer is.
    page.look_at(1640, -60, 0.9)
    stage = page.page.locator(".hswq-slider:visible")
    box = stage.bounding_box()
    assert box is not None
    page.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert float(stage.get_attribute("data-place") or 0) == pytest.approx(0.25, abs=0.02)
    assert stage.locator("img").first.evaluate("image => image.naturalWidth") == 32

    page.page.wait_for_timeout(1500)
    page.open()
    page.page.wait_for_function("() => window.app.graph._nodes.length > 10", timeout=30_000)
    assert page.run() == "success"
    _check_what_is_told(page, f"quick_{renderer}.safetensors")
    assert "the session holds 1 image" in page.texts("hswq-progress")


def _check_what_is_told(page: ComfyPage, file: str) -> None:
    verdict, badge = page.texts("hswq-verdict"), page.texts("hswq-badge")
    assert f"written: {file}" in verdict and " MB instead of 11.5" in verdict
    assert "only 1 image" in verdict, "a warning is a part of the verdict"
    assert f"from the connected path: {file}" in badge and "INT8" in badge and "layers in INT8" in badge
    assert "SSIM 0.9" in page.texts("hswq-figures")


def _report(server: ComfyServer) -> str:
    """What HSWQ Quantize said in the latest run."""
    latest = list(server.get("/history").values())[-1]["outputs"]
    return next(out["report"][0] for out in latest.values() if out.get("report"))


def test_dragging_the_ratio_changes_size_and_file(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    page.drop(QUICK_START)
    session_name(page, f"drag-{renderer}")
    small(page)
    assert page.run() == "success"
    page.page.wait_for_selector(".hswq-size[data-bytes]", timeout=10_000)
    page.look_at(780, -60, 0.9)
    canvas, size = page.page.locator("canvas.hswq-chart:visible"), page.page.locator(".hswq-size:visible")
    box = canvas.bounding_box()
    assert box is not None
    # Where impacts were measured the size is dragged, and stands in the budget.
    page.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.page.wait_for_function(
        "() => window.app.graph._nodes.find((n) => n.type === 'HSWQQuantize')"
        ".widgets.find((w) => w.name === 'budget').value.endsWith('%')",
        timeout=10_000,
    )
    allowed = float(str(page.value("HSWQQuantize", "budget")).rstrip("%")) / 100
    whole = json.loads(_report(server))["source_bytes"]
    page.page.wait_for_function(
        "([least, most]) => { const size = Number(document.querySelector('.hswq-size').dataset.bytes);"
        " return least <= size && size <= most; }",
        arg=[0.95 * allowed * whole, allowed * whole],
        timeout=10_000,
    )
    page.set("HSWQQuantize", {"selection": "variance", "budget": ""})
    page.page.locator(".hswq-legend:visible").wait_for(timeout=10_000)
    sizes = []
    page.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    for share in (0.4, 0.6):
        page.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=4)
        sizes.append(int(size.get_attribute("data-bytes") or 0))
        assert page.value("HSWQQuantize", "keep_ratio") == pytest.approx(share, abs=0.02)
    page.page.mouse.up()
    assert sizes[0] < sizes[1]
    # Moving on without the button held changes nothing.
    page.page.mouse.move(box["x"] + 5, box["y"] + 5)
    assert int(size.get_attribute("data-bytes") or 0) == sizes[1]
    assert page.run() == "success"
    written = json.loads(_report(server))
    assert abs(written["bytes"] - sizes[1]) <= 1e-3 * sizes[1]

    # Another mode is asked of the server anew; a budget takes the ratio's place.
    page.set("HSWQQuantize", {"mode": "comfy"})
    page.page.wait_for_function(
        "(old) => document.querySelector('.hswq-size').dataset.bytes != old", arg=str(sizes[1]), timeout=10_000
    )
    page.set("HSWQQuantize", {"mode": "v2", "budget": "70%"})
    page.page.wait_for_function(
        "(most) => document.querySelector('.hswq-size').dataset.bytes <= most",
        arg=int(written["source_bytes"] * 0.7),
        timeout=10_000,
    )


def test_progress_while_calibrating_and_cancel(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    page.drop(QUICK_START)
    session_name(page, f"cancel-{renderer}")
    small(page, steps=400)
    page.queue()
    progress = page.page.locator(".hswq-progress:visible")
    progress.wait_for(timeout=60_000)
    page.page.wait_for_function(
        "() => /step ([2-9]|[1-9][0-9]+) of 400.* left/.test(document.querySelector('.hswq-progress').textContent)",
        timeout=60_000,
    )
    _cancel(page)
    assert not (server.output / "hswq" / f"cancel-{renderer}.safetensors").exists()
    assert "done" not in progress.inner_text()


def test_cancelled_while_measuring(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    """The node says what it knows by then, and how it ended; nothing is written."""
    page.drop(QUICK_START)
    session_name(page, f"measuring-{renderer}")
    small(page)
    page.set("HSWQQuantize", {"filename": f"measuring_{renderer}"})
    page.queue()
    verdict, said = page.page.locator(".hswq-verdict:visible"), page.page.locator(".hswq-size:visible")
    verdict.filter(has_text="measuring the sensitivity").wait_for(timeout=120_000)
    said.filter(has_text="once their sensitivity is measured").wait_for(timeout=10_000)
    _cancel(page)
    verdict.filter(has_text="cancelled; nothing was written").wait_for(timeout=10_000)
    assert not list(server.output.rglob(f"measuring_{renderer}*"))


def _cancel(page: ComfyPage) -> None:
    """Interrupt the run, and wait until the server has."""
    page.page.evaluate("() => window.app.api.interrupt()")
    page.page.wait_for_function(
        "async () => { const q = await (await fetch('/queue')).json(); return !q.queue_running.length; }",
        timeout=60_000,
    )


@pytest.mark.parametrize(
    "name", ["../outside", *(pytest.param(bad, marks=pytest.mark.stress) for bad in ("con", "a\\b"))]
)
def test_a_bad_name_is_told_on_the_page(
    page: ComfyPage, written: Callable[[], set[Path]], renderer: str, name: str
) -> None:
    page.drop(QUICK_START)
    session_name(page, f"names-{renderer}")
    small(page)
    page.set("HSWQQuantize", {"filename": name})
    before = {path for path in written() if "hswq" not in path.parts[-2]}
    assert page.run() == "error"
    page.page.wait_for_function(
        "() => document.body.innerText.includes('cannot be used as a file name')", timeout=10_000
    )
    assert {path for path in written() if "hswq" not in path.parts[-2]} == before


def test_a_session_that_is_not_there_yet_is_no_error(page: ComfyPage) -> None:
    page.drop(QUICK_START)
    said = page.page.locator(".hswq-size:visible")
    said.wait_for(timeout=10_000)
    assert said.inner_text().startswith("Once the model is calibrated")
    assert "warn" not in (said.get_attribute("class") or "")
