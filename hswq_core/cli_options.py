"""The command line's commands and options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .convert_file import targets
from .errors import nearest_name
from .formats import FORMATS
from .options import PARTS, ROUNDINGS, SCALES, SELECTIONS
from .version import __version__

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error, with the name that was most likely meant."""
        if found := _INVALID_CHOICE.search(message):
            guess = nearest_name(found[1], [choice.strip(" '") for choice in found[2].split(",")])
            message += f". Did you mean {guess!r}?" if guess else "."
        else:
            message += "."
        self.exit(2, f"hswq: {message} See '{self.prog} --help'\n")


def command_line(runs: Mapping[str, Callable[[argparse.Namespace], str]]) -> argparse.ArgumentParser:
    """The commands and their options. Args: runs: what carries each command out, by its name."""
    parser = _Parser(prog="hswq", description="Quantize diffusion checkpoints to 8 bits.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: hswq {name} {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(run=runs[name])
        return added

    inspect = command("inspect", "say what a checkpoint or a statistics file holds", "model.safetensors")
    inspect.add_argument("file", type=Path, help="the file")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    quantize = command(
        "quantize",
        "write a quantized checkpoint",
        "model.safetensors model_v2.safetensors --mode v2 --stats session.safetensors --keep-ratio 0.25",
    )
    _add_source_and_target(quantize)
    quantize.add_argument("--mode", choices=tuple(FORMATS), required=True, help="the format")
    quantize.add_argument("--stats", type=Path, help="the statistics of a calibration session")
    size = quantize.add_mutually_exclusive_group()
    size.add_argument("--keep-ratio", type=float, default=0.25, help="share of the layers to keep")
    size.add_argument("--budget", default="", help="size the file may have: 3.2GB, or 57%% of the source")
    quantize.add_argument("--selection", choices=SELECTIONS, default="variance", help="how they are chosen")
    quantize.add_argument("--rounding", choices=ROUNDINGS, default="nearest", help="how weights are rounded")
    quantize.add_argument("--scales", choices=SCALES, default="tensor", help="what has a scale of its own (v2)")
    quantize.add_argument("--rotate", action="store_true", help="rotate inputs where that is more exact (comfy-int8)")
    pattern: dict[str, Any] = {"action": "append", "default": argparse.SUPPRESS, "metavar": "PATTERN"}
    quantize.add_argument("--part", choices=PARTS, default="unet", help="what is quantized; others stay as they are")
    quantize.add_argument("--keep", dest="force_keep", help="layers to keep in any case", **pattern)
    quantize.add_argument("--quantize", dest="force_quantize", help="layers to quantize in any case", **pattern)
    quantize.add_argument("--thumbnail", type=Path, help="a small picture for the file's header")
    quantize.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto is cuda where there is one")
    quantize.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    quantize.add_argument("--json", action="store_true", help="print the report as JSON")

    convert = command(
        "convert",
        "write a quantized checkpoint in another format",
        "model_v2.safetensors model_comfy.safetensors --to comfy",
    )
    _add_source_and_target(convert)
    convert.add_argument("--to", choices=targets(), required=True, help="the format")

    card = command(
        "card",
        "write the model card, the description and the hashes of a quantized file",
        "model_v2.safetensors --licence openrail++ --base-model stabilityai/stable-diffusion-xl-base-1.0",
    )
    card.add_argument("file", type=Path, help="the quantized file")
    card.add_argument("--out", type=Path, help="the folder to write; default: the file's name with _publish")
    card.add_argument("--proof", type=Path, help="the proof.html of HSWQ Prove or 'hswq prove'")
    card.add_argument("--title", default="", help="default: the file's own")
    card.add_argument("--author", default="", help="who made the original")
    card.add_argument("--licence", default="", help="of Hugging Face's list, as openrail++")
    card.add_argument("--base-model", default="", help="the original's repository")
    card.add_argument("--trigger", default="", help="trigger words")
    card.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    card.add_argument("--quiet", action="store_true", help="show no progress")

    proving = command(
        "prove",
        "compare a quantized model with the original in a ComfyUI (exit code 1: it does not pass)",
        "model.safetensors model_v2.safetensors --seeds 25 --steps 25 --cfg 7",
    )
    proving.add_argument("reference", help="the original, as ComfyUI lists it")
    proving.add_argument("candidate", help="the quantized model, as ComfyUI lists it")
    proving.add_argument("--prompts", type=Path, help="a file with one prompt a line; default: a varied list")
    for name, default, text in (
        ("negative", "", "the negative prompt"), ("seeds", 4, "pairs to make"), ("seed", 1000, "the first seed"),
        ("steps", 25, "sampling steps"), ("cfg", 7.0, "guidance"), ("sampler", "euler", "the sampler"),
        ("scheduler", "normal", "the scheduler"), ("width", 1024, "in pixels"), ("height", 1024, "in pixels"),
    ):  # fmt: skip
        proving.add_argument(f"--{name}", type=type(default), default=default, help=text)
    proving.add_argument(
        "--server", default="", help="ComfyUI's address; default: one started from COMFYUI_PATH, else port 8188"
    )
    proving.add_argument("--save-pictures", action="store_true", help="write all pictures as PNG beside the page")
    proving.add_argument("--json", action="store_true", help="print the proof as JSON")

    commands.add_parser("farm", help="carry out a recipe for many checkpoints; see 'hswq farm --help'", add_help=False)

    merging = command(
        "merge-stats",
        "add up the statistics of several sessions of one model",
        "both.safetensors monday.safetensors tuesday.safetensors",
    )
    merging.add_argument("target", type=Path, help="the file to write")
    merging.add_argument("parts", type=Path, nargs="+", help="the sessions' files")
    merging.add_argument("--overwrite", action="store_true", help="replace an existing target")
    return parser


def _add_source_and_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the checkpoint to read")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
