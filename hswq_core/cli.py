"""The command line, ``hswq``.

Exit code 0 on success; 2 with one line on stderr for anything a user can act on; 1 for a candidate that does not pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from . import api
from .added_commands import add_commands
from .backend import forced_set
from .calibration.coverage import coverage_lines
from .calibration.statistics_file import save_statistics
from .calibration.summary import is_statistics, summarize
from .cli_options import command_line
from .errors import HSWQError, PlanError, StatisticsError
from .estimate import estimate
from .files.modelspec import thumbnail_of
from .files.writer import check_not_source, check_target, same_file
from .log import print_any_text
from .options import QuantizeOptions
from .planning import QuantizationPlan
from .progress import Progress, no_progress
from .publishing import About, publish
from .recipes import options_of_recipe


def main(arguments: Sequence[str] | None = None) -> int:
    print_any_text()
    words = list(sys.argv[1:] if arguments is None else arguments)
    line = command_line(_COMMANDS, add_commands)
    try:
        forced_set()  # a wrong HSWQ_KERNELS is told before the work, not in the middle of it
        if words and words[0] in line.whole:
            return line.whole[words[0]](words[1:])
        args = line.parser.parse_args(words)
        text = args.run(args)
    except HSWQError as error:
        print(f"hswq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # It may come when the file is in its place already.
        print("hswq: interrupted; what was to be written is there whole, or not at all.", file=sys.stderr)
        return 2
    _say(text)
    return int(getattr(args, "failed", False))


def _say(text: str) -> None:
    """Print to standard output, if anybody still reads it: what was to be done is done."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        # What is left in the buffer would raise again when Python ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _inspect(args: argparse.Namespace) -> str:
    found = summarize(args.file) if is_statistics(args.file) else api.inspect(args.file)
    return json.dumps(found.as_dict(), indent=2) if args.json else str(found)


def _quantize(args: argparse.Namespace) -> str:
    args.thumbnail = thumbnail_of(args.thumbnail) if args.thumbnail else ""
    given = {f.name: getattr(args, f.name) for f in fields(QuantizeOptions) if f.name in args}
    options = options_of_recipe(args.recipe, given)
    statistics = api.load_statistics(args.stats) if args.stats else None
    if args.stats:
        check_not_source(args.output, args.stats, "statistics that are read")
    with _progress(args) as progress:
        if args.dry_run:
            return _dry_run(args, api.plan(args.source, statistics, options, progress=progress))
        done = api.quantize(
            args.source, args.output, statistics, options,
            device=args.device, overwrite=args.overwrite, progress=progress,
        )  # fmt: skip
    return json.dumps(done.as_dict(), indent=2) if args.json else str(done)


def _dry_run(args: argparse.Namespace, planned: QuantizationPlan) -> str:
    needed = estimate(planned.nbytes, planned.largest_layer, args.output.parent)
    if args.json:
        return json.dumps({**planned.as_dict(), "estimate": needed.as_dict()}, indent=2)
    return f"{needed}\n{planned}"


def _convert(args: argparse.Namespace) -> str:
    with _progress(args) as progress:
        return str(api.convert(args.source, args.output, args.to, overwrite=args.overwrite, progress=progress))


def _doctor(args: argparse.Namespace) -> str:
    if args.repair:
        return _repair(args)
    statistics = api.load_statistics(args.stats) if args.stats else None
    with _progress(args) as progress:
        found = api.diagnose(
            args.file, card=args.card, original=args.original, statistics=statistics, progress=progress
        )
    return json.dumps(found.as_dict(), indent=2) if args.json else str(found)


def _repair(args: argparse.Namespace) -> str:
    if args.original is None:
        raise PlanError("a repair wants the original", remedy="Give the unquantized model (--original)")
    with _progress(args) as progress:
        done = api.repair(args.file, args.original, args.repair, overwrite=args.overwrite, progress=progress)
    return json.dumps(done.as_dict(), indent=2) if args.json else str(done)


def _card(args: argparse.Namespace) -> str:
    about = About(**{field.name: getattr(args, field.name) for field in fields(About)})
    folder = args.out or args.file.with_name(f"{args.file.stem}_publish")
    with _progress(args) as progress:
        written = publish(args.file, folder, about, proof=args.proof, overwrite=args.overwrite, progress=progress)
    said = f"{written.folder}: {', '.join(written.names)}"
    return "\n".join([said, *(f"missing: {each}" for each in written.missing)])


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
    return "\n".join([said, *coverage_lines(total)])


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


_COMMANDS = {
    "inspect": _inspect,
    "quantize": _quantize,
    "convert": _convert,
    "doctor": _doctor,
    "card": _card,
    "merge-stats": _merge,
}
