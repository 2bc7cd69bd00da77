"""Subgraph blueprints: parts of the example workflows as single nodes, which the page lists under this pack."""

from __future__ import annotations

import uuid
from typing import Any

from hswq_core.recipes import DEFAULT_RECIPE, RECIPES

from .canvas import CALIBRATED, Canvas

_INPUT, _OUTPUT = -10, -20
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "hswq/blueprints")


class Blueprint(Canvas):
    """A subgraph: nodes as on a canvas, and sockets of its own."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        super().__init__(object_info)
        self._sockets: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        self._shown: list[list[str]] = []

    def takes(self, name: str, kind: str, *targets: tuple[str, str]) -> None:
        """An input of the subgraph, to inputs of its nodes as (node, input)."""
        links = []
        for target, socket in targets:
            node = self._nodes[target]
            place = [each["name"] for each in node["inputs"]].index(socket)
            number = self._connect(_INPUT, len(self._sockets["inputs"]), node["id"], place, kind)
            node["inputs"][place]["link"] = number
            links.append(number)
        self._add_socket("inputs", name, kind, links)

    def gives(self, name: str, node: str, output: int) -> None:
        """An output of the subgraph, from an output of one of its nodes."""
        slot = self._nodes[node]["outputs"][output]
        number = self._connect(self._nodes[node]["id"], output, _OUTPUT, len(self._sockets["outputs"]), slot["type"])
        slot["links"].append(number)
        self._add_socket("outputs", name, slot["type"], [number])

    def shows(self, node: str, *widgets: str) -> None:
        """Fields of a node that are fields of the subgraph."""
        self._shown += [[str(self._nodes[node]["id"]), widget] for widget in widgets]

    def blueprint(self, name: str, description: str) -> dict[str, Any]:
        """The file that the page reads: one node, and the subgraph behind it."""
        identity = str(uuid.uuid5(_NAMESPACE, name))
        right = max(node["pos"][0] + node["size"][0] for node in self._nodes.values())
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        subgraph = {
            "id": identity, "version": 1, "revision": 0, "config": {}, "name": name, "category": "HSWQ",
            "description": description,
            "state": {"lastGroupId": 0, "lastNodeId": len(self._nodes), "lastLinkId": len(self._links),
                      "lastRerouteId": 0},
            "inputNode": {"id": _INPUT, "bounding": [-200, 40, 120, 100]},
            "outputNode": {"id": _OUTPUT, "bounding": [right + 80, 40, 120, 100]},
            **self._sockets, "widgets": [], "nodes": list(self._nodes.values()), "groups": [],
            "links": [dict(zip(names, link, strict=True)) for link in self._links], "extra": {},
        }  # fmt: skip
        sockets = {
            "inputs": [{"name": each["name"], "type": each["type"], "link": None} for each in self._sockets["inputs"]],
            "outputs": [{"name": e["name"], "type": e["type"], "links": []} for e in self._sockets["outputs"]],
        }
        node = {
            "id": 1, "type": identity, "title": name, "pos": [0, 0], "size": [400, 260], "flags": {}, "order": 0,
            "mode": 0, **sockets, "properties": {"proxyWidgets": self._shown}, "widgets_values": [],
        }  # fmt: skip
        return {
            "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4,
            "definitions": {"subgraphs": [subgraph]}, "extra": {},
        }  # fmt: skip

    def _add_socket(self, side: str, name: str, kind: str, links: list[int]) -> None:
        identity = str(uuid.uuid5(_NAMESPACE, f"{side}/{name}"))
        self._sockets[side].append({"id": identity, "name": name, "type": kind, "linkIds": links})


def quantize(object_info: dict[str, Any]) -> dict[str, Any]:
    """A connected model calibrated and written."""
    b = Blueprint(object_info)
    b.add("run", "HSWQCalibrateRun", (0, 40, 400, 760), sampler_name="euler", scheduler="normal")
    b.add(
        "write", "HSWQQuantize", (460, 40, 400, 830), source=CALIBRATED, stats=("run", 0), keep_ratio=0.1,
        recipe=DEFAULT_RECIPE, **RECIPES[DEFAULT_RECIPE],
    )  # fmt: skip
    b.takes("model", "MODEL", ("run", "model"), ("write", "model"))
    b.takes("clip", "CLIP", ("run", "clip"), ("write", "clip"))
    b.takes("vae", "VAE", ("write", "vae"))
    b.gives("path", "write", 0)
    b.gives("report", "write", 1)
    b.shows("run", "samples", "steps", "cfg", "width", "height")
    b.shows("write", "recipe", "keep_ratio", "filename")
    return b.blueprint("HSWQ: calibrate and quantize", "Makes images with a model and writes an 8-bit copy of it.")


def prove(object_info: dict[str, Any]) -> dict[str, Any]:
    """A file that was written, proved and described."""
    b = Blueprint(object_info)
    b.add("copy", "HSWQLoader", (0, 40, 400, 190))
    b.add("prove", "HSWQProve", (460, 40, 400, 620), candidate=("copy", 0), sampler_name="euler", scheduler="normal")
    b.add("publish", "HSWQPublish", (920, 40, 400, 310), proof=("prove", 2))
    b.takes("original", "MODEL", ("prove", "reference"))
    b.takes("clip", "CLIP", ("prove", "clip"))
    b.takes("vae", "VAE", ("prove", "vae"))
    b.takes("path", "STRING", ("copy", "path"), ("publish", "path"))
    b.gives("pairs", "prove", 0)
    b.gives("verdict", "prove", 1)
    b.gives("folder", "publish", 0)
    b.shows("prove", "seeds", "steps", "cfg", "width", "height")
    b.shows("publish", "title", "author", "licence")
    return b.blueprint("HSWQ: prove and publish", "Compares a written file with the original and describes it.")


BLUEPRINTS = {"HSWQ calibrate and quantize": quantize, "HSWQ prove and publish": prove}
