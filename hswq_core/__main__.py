"""The command line: ``python -m hswq_core inspect|quantize|convert|merge-stats``. No ComfyUI needed.

Exit code 0 on success; 2 with one line on stderr for anything a user can act on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from . import __version__
from .calibration.coverage import coverage_warnings
from .calibration.statistics import merge
from .calibration.statistics_file import load_statistics, save_statistics
from .convert import TARGETS, convert_checkpoint
from .errors import HSWQError, PlanError
from .files.checkpoint import CheckpointReader
from .files.formats import FORMATS
from .files.inspect import inspect_checkpoint
from .files.writer import check_target
from .fp8.rounding import ROUNDINGS
from .planning.plan import SCALES, make_plan
from .planning.selection import SELECTIONS
from .quantize import quantize_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except HSWQError as error:
        print(f"hswq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hswq: interrupted, nothing was written.", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error."""
        self.exit(2, f"hswq: {message}. See '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m hswq_core", description="Quantize diffusion checkpoints to FP8.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="say what a checkpoint holds")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(run=_inspect)

    quantize = commands.add_parser("quantize", help="write an FP8 checkpoint")
    quantize.add_argument("source", type=Path)
    quantize.add_argument("target", type=Path)
    quantize.add_argument("--mode", choices=list(FORMATS), required=True)
    quantize.add_argument("--stats", type=Path, help="statistics of a calibration session")
    size = quantize.add_mutually_exclusive_group()
    size.add_argument("--keep-ratio", type=float, default=0.25, help="share of layers to keep (default 0.25)")
    size.add_argument("--budget", default="", help="size the file may have: 3.2GB, or 57%% of the source")
    quantize.add_argument("--selection", choices=SELECTIONS, default="variance", help="how they are chosen")
    quantize.add_argument("--rounding", choices=ROUNDINGS, default="nearest")
    quantize.add_argument("--scales", choices=SCALES, default="tensor", help="what has a scale of its own (v2)")
    quantize.add_argument("--keep", action="append", default=[], metavar="PATTERN", help="layers to keep in any case")
    quantize.add_argument(
        "--quantize", action="append", default=[], metavar="PATTERN", help="layers to quantize in any case"
    )
    quantize.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; default: cuda where there is one")
    quantize.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    quantize.add_argument("--overwrite", action="store_true", help="replace an existing target")
    quantize.add_argument("--json", action="store_true", help="report as JSON")
    quantize.set_defaults(run=_quantize)

    convert = commands.add_parser("convert", help="write an FP8 checkpoint in another format")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--to", choices=list(TARGETS), required=True)
    convert.add_argument("--overwrite", action="store_true", help="replace an existing target")
    convert.set_defaults(run=_convert)

    merging = commands.add_parser("merge-stats", help="add up statistics of one model")
    merging.add_argument("target", type=Path)
    merging.add_argument("parts", type=Path, nargs="+")
    merging.add_argument("--overwrite", action="store_true", help="replace an existing target")
    merging.set_defaults(run=_merge)
    return parser


def _inspect(args: argparse.Namespace) -> None:
    with CheckpointReader(args.file) as reader:
        found = inspect_checkpoint(reader)
    print(json.dumps(found.as_dict(), indent=2) if args.json else found)


def _quantize(args: argparse.Namespace) -> None:
    statistics = load_statistics(args.stats) if args.stats else None
    with CheckpointReader(args.source) as source:
        plan = make_plan(
            source,
            statistics,
            mode=args.mode,
            keep_ratio=args.keep_ratio,
            budget=args.budget,
            selection=args.selection,
            rounding=args.rounding,
            scales=args.scales,
            force_keep=args.keep,
            force_quantize=args.quantize,
            progress=_progress_bar,
        )
        done = (
            plan
            if args.dry_run
            else quantize_checkpoint(
                source,
                plan,
                statistics,
                args.target,
                overwrite=args.overwrite,
                device=_device(args.device),
                progress=_progress_bar,
            )
        )
    print(json.dumps(done.as_dict(), indent=2) if args.json else done)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PlanError(f"there is no device {name!r} ({str(error).splitlines()[0]})", do="Use cpu") from None


def _convert(args: argparse.Namespace) -> None:
    with CheckpointReader(args.source) as source:
        layers = convert_checkpoint(source, args.target, args.to, overwrite=args.overwrite, progress=_progress_bar)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:,.1f} MB, {layers} layers in FP8")


def _merge(args: argparse.Namespace) -> None:
    check_target(args.target, overwrite=args.overwrite)
    total = merge(load_statistics(part) for part in args.parts)
    save_statistics(total, args.target)
    print(f"{args.target}: {len(total.layers)} layers, {total.runs} runs, {total.samples} samples")
    for warning in coverage_warnings(total):
        print(f"warning: {warning}")


def _progress_bar(done: int, total: int) -> None:
    if sys.stderr.isatty():
        width = 40 * done // max(total, 1)
        end = "\n" if done == total else ""
        print(
            f"\r[{'#' * width}{'.' * (40 - width)}] {done / max(total, 1):4.0%}", end=end, file=sys.stderr, flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
