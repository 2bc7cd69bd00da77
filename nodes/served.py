"""What the page can be given of a file: its place for ComfyUI's own route ``/view``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import folder_paths


def served(file: Path) -> dict[str, str] | None:
    """The query of ``/view`` for a file in the output folder; ``None`` for one elsewhere, which is not served."""
    root = Path(os.path.abspath(folder_paths.get_output_directory()))
    path = Path(os.path.abspath(file))
    if not path.is_relative_to(root):
        return None
    return {"filename": path.name, "subfolder": path.relative_to(root).parent.as_posix(), "type": "output"}


def as_text_file(title: str, *lines: str) -> dict[str, str]:
    """The same for a temporary file with a text, which is what app mode shows of a node that makes no images."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    handle, name = tempfile.mkstemp(".txt", "hswq_", folder)
    with open(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return {"filename": Path(name).name, "subfolder": "", "type": "temp", "display_name": title}
