"""A workflow as the page saves it, turned into what the server takes: what the page does on 'Run'."""

from __future__ import annotations

from typing import Any

_NOTES = ("Note", "MarkdownNote")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Nodes by id with their inputs; ids are text. Errors: KeyError for a node or input the server does not know."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES:
            continue
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for name, spec in _inputs(object_info[node["type"]]):
            if not _is_widget(spec):
                continue
            inputs[name] = values.pop(0)
            if len(spec) > 1 and spec[1].get("control_after_generate"):
                values.pop(0)  # the page's own "fixed / randomize" beside the seed
        if values:
            raise KeyError(f"{node['type']} has {len(values)} widget values too many")
        known = dict(_inputs(object_info[node["type"]]))
        for socket in node["inputs"]:
            if socket["name"] not in known:
                raise KeyError(f"{node['type']} has no input {socket['name']}")
            if socket["link"] is not None:
                inputs[socket["name"]] = sources[socket["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _inputs(info: dict[str, Any]) -> list[tuple[str, Any]]:
    return [*info["input"].get("required", {}).items(), *info["input"].get("optional", {}).items()]


def _is_widget(spec: Any) -> bool:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    return (isinstance(kind, list) or kind in _WIDGETS) and not options.get("forceInput")
