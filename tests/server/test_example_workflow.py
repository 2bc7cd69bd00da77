"""The workflow that users drag in: every node and input in it exists, and it runs."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from safetensors.torch import load_file, save_file

from showcase.blueprints import BLUEPRINTS
from showcase.demo import workflow
from showcase.workflows import build
from tests.support.examples import EXAMPLES, FOLDER, FULL_RECIPE, QUICK_START, QUICK_START_API
from tests.support.graph import to_prompt
from tests.support.odd_folder import CALIBRATED
from tests.support.probing import UNET
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer
from tests.support.workflows import TINY


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_what_the_builder_makes_of_todays_nodes(server: ComfyServer, path: Path) -> None:
    """Every node and input in it exists, every value is of an input, and no input was forgotten."""
    info = server.get("/object_info")
    graph = json.loads(path.read_text(encoding="utf-8"))
    # Stock nodes gain inputs from version to version; ours are the same everywhere.
    assert shape_of(graph) == shape_of(build(info)[path])
    assert path.with_suffix(".jpg").stat().st_size < 1_000_000


def test_they_are_all_known() -> None:
    assert sorted(FOLDER.glob("*.json")) == sorted(EXAMPLES)


def test_blueprints_are_what_the_builder_makes_of_todays_nodes(server: ComfyServer) -> None:
    info = server.get("/object_info")
    for name, make in BLUEPRINTS.items():
        assert make(info) == json.loads((REPOSITORY / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_titles_and_notes_have_a_translation(language: str) -> None:
    words = json.loads((REPOSITORY / "web" / "hswq" / f"examples.{language}.json").read_text(encoding="utf-8"))
    for path in EXAMPLES:
        graph = json.loads(path.read_text(encoding="utf-8"))
        said = [node["title"] for node in graph["nodes"] if "title" in node]
        said += [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
        said += [group["title"] for group in graph["groups"]]
        assert [text for text in said if text and text not in words] == []


def shape_of(graph: dict[str, Any]) -> dict[str, Any]:
    ours = [node for node in graph["nodes"] if node["type"].startswith("HSWQ")]
    parts = ("type", "pos", "size", "mode", "inputs", "outputs", "widgets_values")
    return {str(node["id"]): {part: node[part] for part in parts} for node in ours}


def test_the_api_form_is_the_quick_start(server: ComfyServer) -> None:
    info = server.get("/object_info")
    prompt = to_prompt(json.loads(QUICK_START.read_text(encoding="utf-8")), info)
    api = json.loads(QUICK_START_API.read_text(encoding="utf-8"))
    for entry in (*prompt.values(), *api.values()):
        entry["inputs"].pop("ckpt_name", None)  # the one field that users fill in
    assert prompt.keys() == api.keys()
    ours = [key for key, entry in api.items() if entry["class_type"].startswith("HSWQ")]
    assert {key: prompt[key] for key in ours} == {key: api[key] for key in ours}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_its_links_are_whole(path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, origin, output, target, socket, kind in graph["links"]:
        assert link in nodes[origin]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][socket]["type"] in (kind, "*")


def test_the_quick_starts_app_names_fields_and_results_that_are_there() -> None:
    """Newer pages show them in app mode."""
    graph = json.loads(QUICK_START.read_text(encoding="utf-8"))
    nodes, app = {node["id"]: node for node in graph["nodes"]}, graph["extra"]["linearData"]
    for number, field in app["inputs"]:
        assert field in [socket["name"] for socket in nodes[number]["inputs"] if "widget" in socket]
    shown = sorted(nodes[number]["type"] for number in app["outputs"])
    assert shown == ["HSWQCompare", "HSWQQuantize", *["SaveImage"] * 3]


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_it_runs_from_the_original_to_the_comparison(server: ComfyServer, mode: str) -> None:
    flow = workflow("apple", 3, mode=mode, filename=f"example_{mode}")
    for entry in flow.values():
        if entry["class_type"] == "KSampler":
            entry["inputs"]["steps"] = 3
    outputs = server.run(flow)
    report = json.loads(next(out["report"][0] for out in outputs.values() if out.get("report")))
    pairs = next(out["hswq_compare"] for out in outputs.values() if out.get("hswq_compare"))
    assert report["mode"] == mode and report["selection"] == "measured"
    assert len(pairs) == 4 and 0.5 < float(pairs[0]["ssim"]) < 1
    assert (server.output / "checkpoints" / f"example_{mode}.safetensors").stat().st_size == report["bytes"]


def test_sessions_are_named_by_the_checkpoint() -> None:
    for path in EXAMPLES:
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] in ("HSWQCalibrate", "HSWQCalibrateRun"):
                assert "default" in node["widgets_values"], path.stem


@pytest.mark.stress
def test_the_full_recipe_runs_with_one_checkpoint_and_then_with_another(server: ComfyServer) -> None:
    """Choose, press Run: the second model has a session of its own, and no chart before it is calibrated."""
    tensors = load_file(TINY_CHECKPOINT)
    changed = {k: v * 1.02 if k.startswith(UNET) and v.dim() > 1 else v for k, v in tensors.items()}
    save_file(changed, server.checkpoints / "second.safetensors")
    graph = json.loads(FULL_RECIPE.read_text(encoding="utf-8"))
    prompt = to_prompt(graph, server.get("/object_info"))
    small = {"width": 256, "height": 256, "steps": 2, "cfg": 2.0}
    settings: dict[str, dict[str, Any]] = {
        "HSWQCalibrateRun": {**small, "samples": 1, "rows_per_layer": 64},
        "HSWQMeasureSensitivity": {"probes": 1},
        "HSWQProve": {**small, "seeds": 1},
        "HSWQLoader": {"ckpt_name": TINY},
    }
    for name in (TINY, "second.safetensors"):
        for entry in prompt.values():
            entry["inputs"] |= settings.get(entry["class_type"], {})
            entry["inputs"] |= {"ckpt_name": name} if entry["class_type"] == "CheckpointLoaderSimple" else {}
        session = name.removesuffix(".safetensors")
        asked = f"/hswq/curve?session=default&file={name}&source={quote(CALIBRATED)}&selection=variance&mode=v2"
        first = server.get(asked)
        assert first == {"waiting": True} or name == TINY
        server.run(prompt)
        assert (server.output / "hswq" / f"{session}.safetensors").exists()
        assert len(server.get(asked)["layers"]) == 175
    # A session that was given a name is of the first model, whichever is chosen now.
    asked = asked.replace("session=default", f"session={TINY}")
    assert server.get(asked) == {"waiting": True}
    assert server.get(asked.replace(quote(CALIBRATED), "second.safetensors")) == {"waiting": True}
    assert len(server.get(asked.replace("second", "hswq_tiny"))["layers"]) == 175
