"""A workflow as the page saves it, turned into what the server takes: what the page does on 'Run'."""

from __future__ import annotations

from typing import Any

_NOTES = ("Note", "MarkdownNote")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_BYPASSED = 4


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Nodes by id with their inputs; ids are text. Errors: KeyError for a node or input the server does not know."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}

    def source(link: int) -> list[Any]:
        """Where a link comes from, through bypassed nodes: their first input of the same type takes its place."""
        _, origin, output, _, _, kind = links[link]
        node = nodes[origin]
        if node["mode"] != _BYPASSED:
            return [str(origin), output]
        return source(next(s["link"] for s in node["inputs"] if s["type"] == kind and s["link"] is not None))

    prompt: dict[str, Any] = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES or node["mode"] == _BYPASSED:
            continue
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for name, spec in inputs_of(object_info[node["type"]]):
            if not is_widget(spec):
                continue
            inputs[name] = values.pop(0) if values else default_of(spec)
            if has_control(name, spec) and values:
                values.pop(0)  # the page's own "fixed / randomize" beside the seed
        if values:
            raise KeyError(f"{node['type']} has {len(values)} widget values too many")
        known = dict(inputs_of(object_info[node["type"]]))
        for socket in node["inputs"]:
            if socket["name"] not in known:
                raise KeyError(f"{node['type']} has no input {socket['name']}")
            if socket["link"] is not None:
                inputs[socket["name"]] = source(socket["link"])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def inputs_of(info: dict[str, Any]) -> list[tuple[str, Any]]:
    return [*info["input"].get("required", {}).items(), *info["input"].get("optional", {}).items()]


def is_widget(spec: Any) -> bool:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    return (isinstance(kind, list) or kind in _WIDGETS) and not options.get("forceInput")


def has_control(name: str, spec: Any) -> bool:
    """Whether the page puts a field of its own behind this one, by its name or because the node asks for it."""
    return name in ("seed", "noise_seed") or bool(len(spec) > 1 and spec[1].get("control_after_generate"))


def default_of(spec: Any) -> Any:
    """What the page fills in by itself: the default, or the first choice."""
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [None])
    return options.get("default", choices[0] if choices else None)
