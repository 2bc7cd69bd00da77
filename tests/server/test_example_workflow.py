"""The workflow that users drag in: every node and input in it exists, and it runs."""

import json

import pytest

from benchmarks.demo import WORKFLOW, workflow
from tests.support.graph import to_prompt
from tests.support.server import REPOSITORY, ComfyServer

EXAMPLES = sorted((REPOSITORY / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_its_api_form_is_the_same_workflow(server: ComfyServer, path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    api = json.loads((WORKFLOW.parent / path.name).read_text(encoding="utf-8"))
    assert to_prompt(graph, server.get("/object_info")) == api


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_its_links_are_whole(path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, origin, output, target, socket, kind in graph["links"]:
        assert link in nodes[origin]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][socket]["type"] in (kind, "*")


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_it_runs_from_the_original_to_the_comparison(server: ComfyServer, mode: str) -> None:
    flow = workflow("apple", 3, mode=mode, filename=f"example_{mode}")
    for entry in flow.values():
        if entry["class_type"] == "KSampler":
            entry["inputs"]["steps"] = 3
    outputs = server.run(flow)
    texts = [json.loads(out["text"][0]) for out in outputs.values() if out.get("text") and out["text"][0][0] == "{"]
    report = next(t for t in texts if "quantized_layers" in t)
    figures = next(t for t in texts if "ssim" in t)
    assert report["mode"] == mode and 0.5 < figures["ssim"] < 1 and figures["pictures"] == 4
    assert (server.output / "checkpoints" / f"example_{mode}.safetensors").stat().st_size == report["bytes"]
