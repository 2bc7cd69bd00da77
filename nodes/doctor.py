"""HSWQDoctor: what a file of any tool is, what opens it, what this ComfyUI does with it, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..hswq_core import diagnose
from ..hswq_core.errors import CheckpointError
from .common import CATEGORY, HSWQStats, found_by, modification_time, progress_bar, statistics_of
from .inputs import checked
from .sources import known_path, list_of, model_path, models

NO_ORIGINAL = "(none)"


class HSWQDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQDoctor",
            display_name="HSWQ Doctor",
            category=CATEGORY,
            **found_by("fp8", "gguf", "what is this file", "why noise", "slow", "inspect", "diagnose"),
            description=(
                "Says what a quantized file of any tool holds, what opens it, what this ComfyUI computes with each "
                "of its layers, and what is wrong with it."
            ),
            inputs=[
                io.Combo.Input("file", options=models(), tooltip="The model to look at."),
                io.Combo.Input(
                    "original",
                    options=[NO_ORIGINAL, *models()],
                    default=NO_ORIGINAL,
                    optional=True,
                    tooltip="The unquantized model that it was made from: the error of every layer is told, too.",
                ),
                HSWQStats.Input(
                    "stats",
                    optional=True,
                    tooltip="The original's statistics, with its sensitivity measured: the model's error is predicted.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    optional=True,
                    tooltip="A file in ComfyUI's folders to look at instead, such as a GGUF file, which no list has.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All of it, as text."),
                io.String.Output(display_name="json", tooltip="The same for programs."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, original: str = NO_ORIGINAL, path: str = "", **_: Any) -> list[int]:
        named = [Path(path)] if path else []
        try:
            named += [_path(name) for name in ((file,) if not path else ()) + (original,) if name != NO_ORIGINAL]
        except CheckpointError:
            return []  # execute says so
        return [modification_time(each) for each in named]

    @classmethod
    @checked
    def execute(cls, file: str, original: str = NO_ORIGINAL, stats: Any = None, path: str = "") -> io.NodeOutput:
        # With the doctor, which few runs of ComfyUI need.
        from ..hswq_core.doctor.openings.opening import HSWQ_LOADER
        from ..loader.running import running_comfyui

        running = running_comfyui()
        found = diagnose(
            known_path(path) if path else _path(file),
            machine=running.machine,
            original=None if original == NO_ORIGINAL else _path(original),
            statistics=None if stats is None else statistics_of(stats),
            progress=progress_bar(),
        )
        opening = running.opening(found)
        own = f"its own loaders: {opening}"
        report = f"{found}\n\n{running}\n  {own}"
        # A refusal harms nobody where HSWQ Loader opens the file.
        ours = next(each for each in found.openings if each.loader == HSWQ_LOADER)
        is_note = opening.outcome == "refuses" and ours.opens
        told = {
            "verdict": found.verdict,
            "warnings": [str(finding) for finding in found.errors] + ([] if opening.opens or is_note else [own]),
            "notes": [own] if is_note else [],
            "text": report,
        }
        whole = json.dumps({**found.as_dict(), "comfyui": running.as_dict(), "opening": opening.as_dict()}, indent=2)
        return io.NodeOutput(report, whole, ui={"text": [report], "hswq_doctor": [told]})


def _path(name: str) -> Path:
    """The file behind a name of the lists. Errors: CheckpointError when it is gone."""
    return model_path(list_of(name) or "", name)
