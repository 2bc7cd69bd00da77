"""The front door: one function for each job, on files by name. Command line, nodes and scripts come in here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .calibration import statistics_file
from .calibration.statistics import Statistics, merge
from .convert_file import Conversion, convert_checkpoint
from .errors import PlanError
from .files.checkpoint import CheckpointReader
from .files.inspection import Inspection, inspect_checkpoint
from .files.source import TensorSource
from .options import QuantizeOptions
from .planning import MatchedSource, QuantizationPlan, make_plan, match_source
from .planning.candidates import texts_of
from .planning.error_curve import ErrorCurve, error_curve
from .planning.make_plan import plan_with_curve
from .planning.size_curve import SizeCurve, sizes_by_keep_ratio
from .progress import Progress, no_progress
from .quantize_file import quantize_checkpoint
from .report import Report

if TYPE_CHECKING:
    from .doctor import Diagnosis, Machine
    from .doctor.repair import Repair

AnyPath = str | Path
Source = AnyPath | TensorSource | MatchedSource
_LONGEST_REASON = 120


def quantize(
    source: Source,
    target: AnyPath,
    /,
    statistics: Statistics | None = None,
    options: QuantizeOptions | None = None,
    *,
    device: torch.device | str = "auto",
    overwrite: bool = False,
    progress: Progress = no_progress,
    planning: Progress | None = None,
    **more: Any,
) -> Report:
    """Write a quantized copy of a checkpoint.

    Args:
        source: a file, tensors that are in memory (``files.live_source``), or either with what was found in it already.
        statistics: of a calibration; without them no layer can be chosen to be kept.
        options: what to do; the fields of ``QuantizeOptions`` may also be given by name.
        device: where weights are rounded; ``auto`` is CUDA where there is one.
        overwrite: whether a file at the target may be replaced.
        progress: called with bytes done and bytes in all.
        planning: called before, where weights must be read to decide, with layers done and layers in all; ``progress``
            if not given.

    Errors: HSWQError that says what is wrong, where and what to do. Nothing is left at the target then.
    """
    chosen, where = _options(options, more), device_of(device)
    with _matched(source, statistics, chosen) as matched:
        made = make_plan(matched, chosen, progress=planning or progress)
        return quantize_checkpoint(matched, made, Path(target), overwrite=overwrite, device=where, progress=progress)


def plan(
    source: AnyPath,
    statistics: Statistics | None = None,
    options: QuantizeOptions | None = None,
    *,
    progress: Progress = no_progress,
    **more: Any,
) -> QuantizationPlan:
    """What ``quantize`` would do: every layer with its reason, and the exact size of the file. Writes nothing."""
    chosen = _options(options, more)
    with _matched(source, statistics, chosen) as matched:
        return make_plan(matched, chosen, progress=progress)


def size_curve(
    source: Source, statistics: Statistics, options: QuantizeOptions, *, progress: Progress = no_progress
) -> SizeCurve | ErrorCurve:
    """The predicted error of every size where layers are chosen by impacts that were measured for what is written;
    otherwise what every keep ratio would keep, and the size of the file that it would give."""
    with _matched(source, statistics, options) as matched:
        plan, curve = plan_with_curve(matched, options, progress=progress)
        if curve is not None and options.selection == "measured":
            return error_curve(plan, curve)
        return sizes_by_keep_ratio(matched.source, plan)


def convert(
    source: AnyPath, target: AnyPath, to: str, *, overwrite: bool = False, progress: Progress = no_progress
) -> Conversion:
    """Write a quantized checkpoint in another format, ``v2``, ``comfy`` or ``fp16``, without the original.

    Errors: HSWQError. Nothing is left at the target then.
    """
    with CheckpointReader(Path(source)) as reader:
        return convert_checkpoint(reader, Path(target), to, overwrite=overwrite, progress=progress)


def inspect(file: AnyPath) -> Inspection:
    """What a checkpoint holds, from its header alone. Errors: CheckpointError."""
    with CheckpointReader(Path(file)) as reader:
        return inspect_checkpoint(reader)


def diagnose(
    file: AnyPath,
    *,
    card: str | None = None,
    machine: Machine | None = None,
    original: AnyPath | None = None,
    statistics: Statistics | None = None,
    progress: Progress = no_progress,
) -> Diagnosis:
    """What a file of any tool holds, what opens it, what a machine does with its layers, and what is wrong with it.

    Args:
        card: the name of a card that need not be here; without it and without ``machine``, this machine.
        original: the unquantized model: with it comes the error of every layer.
        statistics: of the original: with impacts in them, the error of the model is predicted.

    Errors: HSWQError for what cannot be read, a card that is not known, and statistics without an original.
    """
    from .doctor import diagnose as diagnose_file  # as much as a third of the rest to import, and seldom used
    from .doctor import named_card

    if statistics is not None and original is None:
        raise PlanError("statistics are given without the original", remedy="Give the original, too (--original)")
    where = named_card(card) if card else machine
    original = Path(original) if original is not None else None
    return diagnose_file(Path(file), machine=where, original=original, statistics=statistics, progress=progress)


def repair(
    file: AnyPath,
    original: AnyPath,
    target: AnyPath,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Repair:
    """Write a copy of a damaged file in which everything is mended that the model it was made from tells.

    Errors: HSWQError for files that cannot be read, damage that cannot be mended, and a file with nothing to mend.
    """
    from .doctor.repair import repair as repair_file

    return repair_file(Path(file), Path(original), Path(target), overwrite=overwrite, progress=progress)


def load_statistics(file: AnyPath) -> Statistics:
    """The statistics of a calibration session. Errors: StatisticsError when the file is missing or damaged."""
    return statistics_file.load_statistics(Path(file))


def merge_statistics(parts: Iterable[Statistics | AnyPath]) -> Statistics:
    """The exact sum of several sessions, given as values or as files.

    Errors: StatisticsError when they are of different models, or a file is missing or damaged.
    """
    return merge(part if isinstance(part, Statistics) else load_statistics(part) for part in parts)


def device_of(name: torch.device | str) -> torch.device:
    """A device that tensors can be made on. Errors: PlanError where there is none of this name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "meta":  # it holds no values
            return torch.empty(0, device=device).device
        reason = "it holds no values"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:_LONGEST_REASON]  # torch lists all that it knows
    raise PlanError(f"there is no device {str(name)!r} ({reason})", remedy="Use cpu")


@contextmanager
def _matched(source: Source, statistics: Statistics | None, options: QuantizeOptions) -> Iterator[MatchedSource]:
    """The source, open, and the statistics of its model."""
    if isinstance(source, MatchedSource):
        yield source.with_statistics(statistics)
        return
    with ExitStack() as stack:
        opened = stack.enter_context(CheckpointReader(Path(source))) if isinstance(source, (str, Path)) else source
        texts_of(opened, options)  # before the diffusion model, which may be missing
        yield match_source(opened, statistics, text_encoders_alone=options.part == "text_encoders")


def _options(options: QuantizeOptions | None, more: dict[str, Any]) -> QuantizeOptions:
    try:
        return QuantizeOptions(**more) if options is None else replace(options, **more)
    except TypeError as error:
        fields = ", ".join(QuantizeOptions.__dataclass_fields__)
        raise PlanError(f"an option is unknown ({error})", remedy=f"The options are: {fields}") from None
