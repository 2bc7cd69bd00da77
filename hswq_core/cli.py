"""The command line: ``hswq inspect|quantize|convert|merge-stats``. No ComfyUI needed.

Exit code 0 on success; 2 with one line on stderr for anything a user can act on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from . import api
from .calibration.coverage import coverage_warnings
from .calibration.statistics_file import save_statistics
from .convert_file import TARGETS
from .errors import HSWQError, StatisticsError, nearest_name
from .files.writer import check_not_source, check_target, same_file
from .options import MODES, PARTS, ROUNDINGS, SCALES, SELECTIONS, QuantizeOptions
from .progress import Progress, no_progress
from .publishing import About, publish
from .version import __version__

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A console of few characters (cp1252) must not turn a finished job into an error.
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    args = _parser().parse_args(arguments)
    try:
        text = args.run(args)
    except HSWQError as error:
        print(f"hswq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hswq: interrupted, nothing was written.", file=sys.stderr)
        return 2
    _say(text)
    return 0


def _say(text: str) -> None:
    """Print to standard output, if anybody still reads it: what was to be done is done."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        # What is left in the buffer would raise again when Python ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error, with the name that was most likely meant."""
        if found := _INVALID_CHOICE.search(message):
            guess = nearest_name(found[1], [choice.strip(" '") for choice in found[2].split(",")])
            message += f". Did you mean {guess!r}?" if guess else "."
        else:
            message += "."
        self.exit(2, f"hswq: {message} See '{self.prog} --help'\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hswq", description="Quantize diffusion checkpoints to 8 bits.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: hswq {name} {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    inspect = command("inspect", _inspect, "say what a checkpoint holds", "model.safetensors")
    inspect.add_argument("file", type=Path, help="the checkpoint")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    quantize = command(
        "quantize",
        _quantize,
        "write a quantized checkpoint",
        "model.safetensors model_v2.safetensors --mode v2 --stats session.safetensors --keep-ratio 0.25",
    )
    _add_source_and_target(quantize)
    quantize.add_argument("--mode", choices=MODES, required=True, help="the format")
    quantize.add_argument("--stats", type=Path, help="the statistics of a calibration session")
    size = quantize.add_mutually_exclusive_group()
    size.add_argument("--keep-ratio", type=float, default=0.25, help="share of the layers to keep")
    size.add_argument("--budget", default="", help="size the file may have: 3.2GB, or 57%% of the source")
    quantize.add_argument("--selection", choices=SELECTIONS, default="variance", help="how they are chosen")
    quantize.add_argument("--rounding", choices=ROUNDINGS, default="nearest", help="how weights are rounded")
    quantize.add_argument("--scales", choices=SCALES, default="tensor", help="what has a scale of its own (v2)")
    pattern: dict[str, Any] = {"action": "append", "default": argparse.SUPPRESS, "metavar": "PATTERN"}
    quantize.add_argument("--part", choices=PARTS, default="unet", help="what is quantized; others stay as they are")
    quantize.add_argument("--keep", dest="force_keep", help="layers to keep in any case", **pattern)
    quantize.add_argument("--quantize", dest="force_quantize", help="layers to quantize in any case", **pattern)
    quantize.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto is cuda where there is one")
    quantize.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    quantize.add_argument("--json", action="store_true", help="print the report as JSON")

    convert = command(
        "convert",
        _convert,
        "write a quantized checkpoint in another format",
        "model_v2.safetensors model_comfy.safetensors --to comfy",
    )
    _add_source_and_target(convert)
    convert.add_argument("--to", choices=list(TARGETS), required=True, help="the format")

    card = command(
        "card",
        _card,
        "write the model card, the description and the hashes of a quantized file",
        "model_v2.safetensors --licence openrail++ --base-model stabilityai/stable-diffusion-xl-base-1.0",
    )
    card.add_argument("file", type=Path, help="the quantized file")
    card.add_argument("--out", type=Path, help="the folder to write; default: the file's name with _publish")
    card.add_argument("--title", default="", help="default: the file's own")
    card.add_argument("--author", default="", help="who made the original")
    card.add_argument("--licence", default="", help="of Hugging Face's list, as openrail++")
    card.add_argument("--base-model", default="", help="the original's repository")
    card.add_argument("--trigger", default="", help="trigger words")
    card.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    card.add_argument("--quiet", action="store_true", help="show no progress")

    merging = command(
        "merge-stats",
        _merge,
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


def _inspect(args: argparse.Namespace) -> str:
    found = api.inspect(args.file)
    return json.dumps(found.as_dict(), indent=2) if args.json else str(found)


def _quantize(args: argparse.Namespace) -> str:
    options = QuantizeOptions(**{f.name: getattr(args, f.name) for f in fields(QuantizeOptions) if f.name in args})
    statistics = api.load_statistics(args.stats) if args.stats else None
    if args.stats:
        check_not_source(args.target, args.stats, "statistics that are read")
    with _progress(args) as progress:
        if args.dry_run:
            done = api.plan(args.source, statistics, options, progress=progress)
        else:
            done = api.quantize(
                args.source, args.target, statistics, options,
                device=args.device, overwrite=args.overwrite, progress=progress,
            )  # fmt: skip
    return json.dumps(done.as_dict(), indent=2) if args.json else str(done)


def _convert(args: argparse.Namespace) -> str:
    with _progress(args) as progress:
        return str(api.convert(args.source, args.target, args.to, overwrite=args.overwrite, progress=progress))


def _card(args: argparse.Namespace) -> str:
    about = About(**{field.name: getattr(args, field.name) for field in fields(About)})
    folder = args.out or args.file.with_name(f"{args.file.stem}_publish")
    with _progress(args) as progress:
        written = publish(args.file, folder, about, overwrite=args.overwrite, progress=progress)
    return f"{written}: {', '.join(sorted(path.name for path in written.iterdir()))}"


def _merge(args: argparse.Namespace) -> str:
    check_target(args.target, overwrite=args.overwrite)
    for number, part in enumerate(args.parts):
        if any(same_file(part, other) for other in args.parts[:number]):
            raise StatisticsError("this session is named twice", where=part, remedy="Name every session once")
    if os.path.exists(args.target):
        api.load_statistics(args.target)  # nothing but statistics is replaced by statistics
    total = api.merge_statistics(args.parts)
    save_statistics(total, args.target)
    said = f"{args.target}: {len(total.layers)} layers, {total.runs} runs, {total.samples} images"
    return "\n".join([said, *(f"warning: {warning}" for warning in coverage_warnings(total))])


@contextlib.contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Progress]:
    """A progress bar on a terminal; nothing with ``--quiet``, or where standard error goes to a file."""
    if args.quiet or sys.stderr is None or not sys.stderr.isatty():
        yield no_progress
        return
    from tqdm import tqdm  # as slow to import as a small job

    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None or bar.total != total:  # planning counts layers, writing counts bytes
            if bar is not None:
                bar.close()
            large = total > 1_000_000
            bar = tqdm(total=total, unit="B" if large else " layers", unit_scale=large, leave=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
