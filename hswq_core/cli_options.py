"""The command line's commands and options; packages beside this one may add theirs."""

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
from .recipes import CUSTOM, RECIPES
from .version import __version__

Run = Callable[[argparse.Namespace], str]
"""Carries a command out and returns what is printed."""
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


class CommandLine:
    """``hswq`` and its commands.

    Attributes:
        parser: of all commands.
        whole: commands with a command line of their own. Each takes the words behind its name, and returns the exit
            code.
    """

    def __init__(self) -> None:
        self.parser = _Parser(prog="hswq", description="Quantize diffusion checkpoints to 8 bits.")
        self.parser.add_argument("--version", action="version", version=__version__)
        self.whole: dict[str, Callable[[list[str]], int]] = {}
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, text: str, example: str, run: Run) -> argparse.ArgumentParser:
        """Add a command. Returns its parser, for its options.

        Args:
            text: what it does, for the list of commands.
            example: words behind its name.
        """
        added = self._commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: hswq {name} {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    def add_whole(self, name: str, text: str, run: Callable[[list[str]], int]) -> None:
        """Add a command with a command line of its own."""
        self._commands.add_parser(name, help=text, add_help=False)
        self.whole[name] = run


def command_line(runs: Mapping[str, Run], add_more: Callable[[CommandLine], None]) -> CommandLine:
    """The commands and their options.

    Args:
        runs: what carries each command out, by its name.
        add_more: adds commands that are not the core's.
    """
    line = CommandLine()

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return line.add(name, text, example, runs[name])

    inspect = command("inspect", "say what a checkpoint or a statistics file holds", "model.safetensors")
    inspect.add_argument("file", type=Path, help="the file")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    quantize = command(
        "quantize",
        "write a quantized checkpoint",
        "model.safetensors model_v2.safetensors --mode v2 --stats session.safetensors --keep-ratio 0.25",
    )
    _add_source_and_target(quantize)
    unless_given: dict[str, Any] = {"default": argparse.SUPPRESS}
    what = quantize.add_mutually_exclusive_group(required=True)
    what.add_argument("--mode", choices=tuple(FORMATS), help="the format", **unless_given)
    named = ", ".join(name.replace(" ", "-") for name in RECIPES if name != CUSTOM)
    what.add_argument("--recipe", default=CUSTOM, help=f"options that belong together: {named}")
    quantize.add_argument("--stats", type=Path, help="the statistics of a calibration session")
    size = quantize.add_mutually_exclusive_group()
    size.add_argument("--keep-ratio", type=float, default=0.25, help="share of the layers to keep")
    # What a recipe may decide is there only where it is asked for; so is a size, which a recipe may leave open.
    size.add_argument("--budget", help="size the file may have: 3.2GB, or 57%% of the source", **unless_given)
    size.add_argument("--target", help="error that the output may have: 1e-4 (mixed, comfy-mixed)", **unless_given)
    quantize.add_argument("--selection", choices=SELECTIONS, help="how they are chosen (variance)", **unless_given)
    quantize.add_argument("--rounding", choices=ROUNDINGS, help="how weights are rounded (nearest)", **unless_given)
    quantize.add_argument("--scales", choices=SCALES, help="what has a scale of its own: v2 (tensor)", **unless_given)
    quantize.add_argument(
        "--rotate", action="store_true", help="rotate inputs where more exact (int8, comfy-int8)", **unless_given
    )
    pattern: dict[str, Any] = {**unless_given, "action": "append", "metavar": "PATTERN"}
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

    doctor = command(
        "doctor",
        "say what a quantized file of any tool is, what opens it, and what is wrong with it",
        "model-Q4_K.gguf --card 'RTX 3060'",
    )
    doctor.add_argument("file", type=Path, help="a checkpoint or a part of one, safetensors or GGUF")
    doctor.add_argument("--card", help="a card that need not be here, as 'RTX 3060'; default: this machine")
    doctor.add_argument("--original", type=Path, help="the unquantized model, to tell the error of every layer")
    doctor.add_argument("--stats", type=Path, help="its calibration session, to predict the error of the model")
    doctor.add_argument("--repair", type=Path, metavar="DST", help="write a mended file, with what the original tells")
    doctor.add_argument("--overwrite", action="store_true", help="replace an existing target of a repair")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--quiet", action="store_true", help="show no progress")

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
    card.add_argument(
        "--licence", "--license", default="", help="of Hugging Face's list, as openrail++; default: the file's own"
    )
    card.add_argument("--base-model", default="", help="the original's repository")
    card.add_argument("--trigger", default="", help="trigger words")
    card.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    card.add_argument("--quiet", action="store_true", help="show no progress")

    add_more(line)

    merging = command(
        "merge-stats",
        "add up the statistics of several sessions of one model",
        "both.safetensors monday.safetensors tuesday.safetensors",
    )
    merging.add_argument("target", type=Path, help="the file to write")
    merging.add_argument("parts", type=Path, nargs="+", help="the sessions' files")
    merging.add_argument("--overwrite", action="store_true", help="replace an existing target")
    return line


def _add_source_and_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the checkpoint to read")
    # Not called target: that is an option of quantizing.
    parser.add_argument("output", metavar="target", type=Path, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
