"""What this package adds to the command ``hswq``: ``prove``, and ``farm`` with a command line of its own."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from hswq_core.cli_options import CommandLine
from hswq_core.errors import PlanError
from hswq_core.prompts import read_prompts

from .comfyui import comfyui_server
from .prove import ProofRequest, prove


def add_commands(line: CommandLine) -> None:
    """Called by the core, as the entry point ``hswq.commands`` or from a checkout."""
    _add_prove(line)
    line.add_whole("farm", "carry out a recipe for many checkpoints; see 'hswq farm --help'", _farm)


def _add_prove(line: CommandLine) -> None:
    parser = line.add(
        "prove",
        "compare a quantized model with the original in a ComfyUI (exit code 1: it does not pass)",
        "model.safetensors model_v2.safetensors --seeds 25 --steps 25 --cfg 7",
        _prove,
    )
    parser.add_argument("reference", help="the original, as ComfyUI lists it")
    parser.add_argument("candidate", help="the quantized model, as ComfyUI lists it")
    parser.add_argument("--prompts", type=Path, help="a file with one prompt a line; default: a varied list")
    for name, default, text in (
        ("negative", "", "the negative prompt"), ("seeds", 4, "pairs to make"), ("seed", 1000, "the first seed"),
        ("steps", 25, "sampling steps"), ("cfg", 7.0, "guidance"), ("sampler", "euler", "the sampler"),
        ("scheduler", "normal", "the scheduler"), ("width", 1024, "in pixels"), ("height", 1024, "in pixels"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument(
        "--server", default="", help="ComfyUI's address; default: one started from COMFYUI_PATH, else port 8188"
    )
    parser.add_argument("--save-pictures", action="store_true", help="write all pictures as PNG beside the page")
    parser.add_argument("--json", action="store_true", help="print the proof as JSON")


def _prove(args: argparse.Namespace) -> str:
    names = {field.name for field in fields(ProofRequest)} - {"prompts", "sampler_name"}
    prompts = "\n".join(read_prompts(args.prompts)) if args.prompts else ""
    request = ProofRequest(**{name: getattr(args, name) for name in names}, prompts=prompts, sampler_name=args.sampler)
    with comfyui_server(args.server) as client:
        found, page = prove(client, request)
    args.failed = not found["passed"]
    return json.dumps(found, indent=2) if args.json else f"{found['verdict']}\n{page}"


def _farm(words: list[str]) -> int:
    try:
        from .cli import main  # needs more than the core does
    except ImportError as error:
        raise PlanError(
            f"the farm cannot be used ({error})", remedy="It needs Python 3.11, and pip install 'comfyui-hswq[farm]'"
        ) from error
    return main(words)
