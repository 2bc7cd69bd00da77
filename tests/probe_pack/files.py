"""What others do to a file while a MODEL that was opened from it is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io


class ProbeFileChanged(io.ComfyNode):
    """Passes a MODEL on after its file was cut short, written over, replaced or removed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeFileChanged",
            inputs=[io.Model.Input("model"), io.String.Input("name"), io.String.Input("how")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, how: str) -> io.NodeOutput:
        path = Path(str(folder_paths.get_full_path("checkpoints", name)))
        size = path.stat().st_size
        if how == "cut":
            os.truncate(path, 1000)
        elif how == "written over":
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(os.urandom(size // 2))
        elif how == "replaced":
            path.with_suffix(".new").write_bytes(b"another file")
            path.with_suffix(".new").replace(path)
        else:
            path.unlink()
        return io.NodeOutput(model)
