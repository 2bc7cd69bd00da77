"""What images to make: the user's prompts, a file of them in the input folder, or a varied list of our own."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..hswq_core.errors import PlanError
from ..hswq_core.prompts import VARIED, prompts_in, read_prompts


def choose_prompts(text: str) -> list[str]:
    """The prompts that the text stands for. Errors: PlanError for a file that is missing or holds none."""
    text = text.strip()
    if not text:
        return list(VARIED)
    if "\n" in text or not text.lower().endswith(".txt"):
        return prompts_in(text, text)
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / text).resolve()
    if folder not in path.parents or not path.is_file():
        raise PlanError("there is no such file of prompts in the input folder", where=text, remedy="Put it there")
    return read_prompts(path)
