"""What this package adds to the command ``hswq``: ``prove``, and ``farm`` with a command line of its own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hswq_core.cli_options import CommandLine
from hswq_core.errors import PlanError
from hswq_core.prompts import read_prompts
from hswq_core.proof.comparison import Compared, write_comparison

from .comfyui import comfyui_server
from .prove import ProofRequest, prove


def add_commands(line: CommandLine) -> None:
    """Called by the core, as the entry point ``hswq.commands`` or from a checkout."""
    _add_prove(line)
    line.add_whole("farm", "carry out a recipe for many checkpoints; see 'hswq farm --help'", _farm)


def _add_prove(line: CommandLine) -> None:
    parser = line.add(
        "prove",
        "compare quantized models with the original in a ComfyUI (exit code 1: one does not pass)",
        "model.safetensors model_v2.safetensors model_int8.safetensors --seeds 25 --steps 25 --cfg 7",
        _prove,
    )
    parser.add_argument("reference", help="the original, as ComfyUI lists it")
    parser.add_argument(
        "candidates",
        metavar="candidate",
        nargs="+",
        help="quantized models, as ComfyUI lists them: several are compared",
    )
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
    parser.add_argument("--json", action="store_true", help="print the proof as JSON; of several, a list")


def _prove(args: argparse.Namespace) -> str:
    names = {field.name for field in fields(ProofRequest)} - {"candidate", "prompts", "sampler_name", "keep_reference"}
    asked = {name: getattr(args, name) for name in names} | {"sampler_name": args.sampler}
    asked["prompts"] = "\n".join(read_prompts(args.prompts)) if args.prompts else ""
    proofs: list[Compared] = []
    with comfyui_server(args.server) as client:
        for number, candidate in enumerate(args.candidates, 1):
            another = number < len(args.candidates)
            request = ProofRequest(candidate=candidate, keep_reference=another, **asked)
            proofs.append(Compared(*prove(client, request)))
    args.failed = not all(each.proof["passed"] for each in proofs)
    return _said(proofs, as_json=args.json)


def _said(proofs: Sequence[Compared], *, as_json: bool) -> str:
    """The verdict and the page; of several proofs that of each, and the page that compares them."""
    if len(proofs) == 1:
        found = proofs[0]
        return json.dumps(found.proof, indent=2) if as_json else f"{found.proof['verdict']}\n{found.page}"
    page = write_comparison(proofs[0].page.parent.parent, proofs)
    if as_json:
        return json.dumps({"comparison": str(page), "proofs": [each.proof for each in proofs]}, indent=2)
    return "\n".join([*(f"{each.proof['candidate']}: {each.proof['verdict']}" for each in proofs), str(page)])


def _farm(words: list[str]) -> int:
    try:
        from .cli import main  # needs more than the core does
    except ImportError as error:
        raise PlanError(
            f"the farm cannot be used ({error})", remedy="It needs Python 3.11, and pip install 'comfyui-hswq[farm]'"
        ) from error
    return main(words)
