"""HSWQPublish: what a quantized file needs beside it to be uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..hswq_core.files.names import next_free
from ..hswq_core.publishing import About, publish
from .common import CATEGORY, progress_bar
from .inputs import checked
from .served import served
from .sources import known_path


class HSWQPublish(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQPublish",
            display_name="HSWQ Publish",
            category=CATEGORY,
            description=(
                "Writes a folder beside a quantized file: the model card for Hugging Face, a description for Civitai "
                "and the hashes, all from what the file says of itself."
            ),
            inputs=[
                io.String.Input("path", force_input=True, tooltip="Connect the path output of HSWQ Quantize."),
                io.String.Input(
                    "proof",
                    optional=True,
                    force_input=True,
                    tooltip="Connect the path output of HSWQ Prove: its verdict and images go into the folder.",
                ),
                io.String.Input("title", default="", tooltip="Empty: the file's own."),
                io.String.Input("author", default="", tooltip="Who made the original model."),
                io.String.Input(
                    "licence",
                    default="",
                    tooltip="The original's licence as Hugging Face names it, as openrail++. Empty: the file's own.",
                ),
                io.String.Input(
                    "base_model", default="", optional=True, tooltip="The original's repository: owner/name."
                ),
                io.String.Input("trigger", default="", optional=True, tooltip="Trigger words, where there are some."),
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="The folder that was written.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, path: str, proof: str = "", **about: Any) -> io.NodeOutput:
        file = known_path(path)
        folder = next_free(Path(f"{file.with_suffix('')}_publish"))
        made = publish(
            file, folder, About(**about), proof=known_path(proof) if proof else None, progress=progress_bar()
        )
        shown = {
            "folder": str(folder), "missing": made.missing,
            "files": [{"name": name, "served": served(folder / name)} for name in made.names],
        }  # fmt: skip
        card = (folder / "README.md").read_text("utf-8")
        return io.NodeOutput(str(folder), ui={"text": [card], "hswq_published": [shown]})
