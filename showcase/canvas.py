"""A workflow in the page's own form, put together node by node."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.graph import has_control, inputs_of, is_widget

CALIBRATED = "(the calibrated model)"
# Bright, so that titles can be read on dark pages; on light ones web/hswq/example.js darkens them.
COLORS = ("#8cc3ea", "#bdb2f2", "#a5d6a5", "#ecc974")


class Canvas:
    """A workflow that grows node by node. Nodes are named by the caller, and linked by ``name.output``."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self._info = object_info
        self._nodes: dict[str, dict[str, Any]] = {}
        self._links: list[list[Any]] = []
        self._groups: list[dict[str, Any]] = []
        self._app: dict[str, Any] = {}

    def as_app(self, inputs: list[tuple[str, str]], outputs: list[str]) -> None:
        """What newer pages show of the workflow in app mode: fields as (node, field), nodes whose results are shown.

        Whoever opens it sees the workflow first.
        """
        chosen = [[self._nodes[node]["id"], field] for node, field in inputs]
        shown = [self._nodes[node]["id"] for node in outputs]
        self._app = {"linearMode": False, "linearData": {"inputs": chosen, "outputs": shown}}

    def note(self, title: str, text: str, x: int, y: int, width: int, height: int) -> None:
        node = self._place("MarkdownNote", title, x, y, width, height)
        node |= {"widgets_values": [text], "color": "#382f1f", "bgcolor": "#3e3422"}
        self._nodes[f"note {title}"] = node

    def group(self, title: str, x: int, y: int, width: int, height: int) -> None:
        number = len(self._groups)
        self._groups.append(
            {"id": number + 1, "title": title, "bounding": [x, y, width, height], "font_size": 24, "flags": {},
             "color": COLORS[number % len(COLORS)]}
        )  # fmt: skip

    def add(
        self, name: str, kind: str, place: tuple[int, int, int, int], title: str = "", *,
        bypass: bool = False, collapsed: bool = False, properties: dict[str, str] | None = None, **inputs: Any,
    ) -> None:  # fmt: skip
        """A node at x, y with width and height.

        One that is collapsed shows its title alone; its images would need room that it has not in every page.

        Inputs are values, or links as (name, output number). A model's name that is left out is the page's choice.
        """
        node = self._place(kind, title, *place)
        node["mode"] = 4 if bypass else 0
        node["flags"] = {"collapsed": True} if collapsed else {}
        node["properties"] = {"Node name for S&R": kind, **(properties or {})}
        values: list[Any] = []
        for key, spec in inputs_of(self._info[kind]):
            given, widget = inputs.get(key), is_widget(spec)
            socket: dict[str, Any] = {
                "name": key,
                "type": "COMBO" if isinstance(spec[0], list) else spec[0],
                "link": None,
            }
            if widget:
                socket["widget"] = {"name": key}
                if not isinstance(given, tuple):
                    values.append(_value(spec, given))
                    values += ["fixed"] if has_control(key, spec) else []
            elif key in self._info[kind]["input"].get("optional", {}):
                socket["shape"] = 7
            node["inputs"].append(socket)
            if isinstance(given, tuple):
                origin, output = given
                self._link(origin, output, node, len(node["inputs"]) - 1)
        unknown = inputs.keys() - {key for key, _ in inputs_of(self._info[kind])}
        if unknown:
            raise KeyError(f"{kind} has no input {unknown}")
        # The page takes its own default where the list of values ends.
        node["widgets_values"] = values[: values.index(None)] if None in values else values
        names = self._info[kind]["output_name"]
        node["outputs"] = [
            {"name": label, "type": of, "links": []}
            for label, of in zip(names, self._info[kind]["output"], strict=True)
        ]
        self._nodes[name] = node

    def workflow(self, name: str) -> dict[str, Any]:
        # The same id every time, so that a rebuilt workflow is the same file.
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"hswq/{name}"))
        return {
            "id": identity, "revision": 0, "last_node_id": len(self._nodes), "last_link_id": len(self._links),
            "nodes": list(self._nodes.values()), "links": self._links, "groups": self._groups, "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [100, 360]}, "hswq_example": True, **self._app}, "version": 0.4,
        }  # fmt: skip

    def _place(self, kind: str, title: str, x: int, y: int, width: int, height: int) -> dict[str, Any]:
        number = len(self._nodes) + 1
        node: dict[str, Any] = {
            "id": number, "type": kind, "pos": [x, y], "size": [width, height], "flags": {}, "order": number - 1,
            "mode": 0, "inputs": [], "outputs": [], "properties": {},
        }  # fmt: skip
        return node | ({"title": title} if title else {})

    def _link(self, origin: str, output: int, target: dict[str, Any], socket: int) -> None:
        source = self._nodes[origin]
        slot = source["outputs"][output]
        number = self._connect(source["id"], output, target["id"], socket, slot["type"])
        slot["links"].append(number)
        target["inputs"][socket]["link"] = number

    def _connect(self, origin: int, output: int, target: int, socket: int, kind: str) -> int:
        """A link between two nodes by their ids; its number."""
        self._links.append([len(self._links) + 1, origin, output, target, socket, kind])
        return len(self._links)


def _value(spec: Any, given: Any) -> Any:
    if given is not None:
        return given
    options = spec[1] if len(spec) > 1 else {}
    if isinstance(spec[0], list) or spec[0] == "COMBO":
        return options.get("default")
    return options.get("default", {"STRING": "", "BOOLEAN": False}.get(spec[0], 0))
