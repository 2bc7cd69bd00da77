"""Counts how a node run walks through the pack: which files of its core it enters from others, and how often."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import folder_paths
from comfy_api.latest import io

_entered: Counter[str] = Counter()


def _count(frame: FrameType, event: str, _value: object) -> None:
    file = frame.f_code.co_filename
    if event != "call" or "/hswq_core/" not in file:
        return
    if frame.f_code.co_name == "elements":
        _entered["elements"] += 1
    if frame.f_back is not None and frame.f_back.f_code.co_filename != file:
        _entered[file.partition("/hswq_core/")[2]] += 1


class ProbeTrace(io.ComfyNode):
    """Begins to count in the thread that nodes run in; with ``name`` it ends, and writes what it counted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeTrace",
            inputs=[io.String.Input("name", default=""), io.AnyType.Input("after", optional=True)],
            outputs=[io.AnyType.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, name: str, after: Any = None) -> io.NodeOutput:
        if name:
            sys.setprofile(None)
            path = Path(folder_paths.get_output_directory()) / f"{name}.json"
            path.write_text(json.dumps(_entered), encoding="utf-8")
        else:
            _entered.clear()
            sys.setprofile(_count)
        return io.NodeOutput(name)
