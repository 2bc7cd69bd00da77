"""A plan carried out: the source streams through, chosen layers turn to codes, one file comes out."""

from __future__ import annotations

from pathlib import Path

import torch

from .devices import sent
from .errors import PlanError
from .files.dtypes import tensor_bytes
from .files.writer import CheckpointWriter, FileLayout, check_not_source
from .heap import trim_heap
from .parallel import ordered_map, workers_on
from .planning import MatchedSource, QuantizationPlan
from .progress import Progress, no_progress
from .quantize_layer import quantize_layer, weight_problem
from .report import Losses, Report
from .rounding.weight import QuantizedWeight
from .rounding.where import rounding_device


def quantize_checkpoint(
    matched: MatchedSource,
    plan: QuantizationPlan,
    target: Path,
    *,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> Report:
    """Write the planned file, a few layers at a time in memory.

    Args:
        matched: the source, and the statistics that say how it is rounded.
        plan: made for this source, in its present state.
        device: where weights are rounded, if it can.
        progress: called with bytes done and bytes in all.

    Errors: PlanError for a plan of another file, TargetError when the target exists or cannot be written,
    CheckpointError for weights that are not finite or a source that changes while it is read. Nothing is left at
    the target then.
    """
    source, statistics = matched.source, matched.statistics
    if plan.source != source.identity:
        raise PlanError(
            f"the plan was made for {plan.source.path} in another state, or for another file",
            where=source.path,
            remedy="Make a plan for this file",
        )
    check_not_source(target, source.path)
    device = rounding_device(torch.device(device))
    quantized = {layer.key: layer for layer in plan.quantized}
    # In the order of the file, which is the order in which a disk reads fastest.
    keys = sorted(source.tensors, key=lambda key: source.tensors[key].begin)

    def convert(key: str) -> QuantizedWeight | None:
        form = quantized[key].form if key in quantized else None
        if form is None:
            return None
        name = quantized[key].layer
        measured = statistics.layers.get(name) if statistics else None
        try:
            return quantize_layer(sent(source.tensor(key), device), measured, form, plan.options.rounding)
        except ValueError as problem:
            raise weight_problem(name, problem, source.path) from None

    total = sum(info.nbytes for info in source.tensors.values())
    done, losses = 0, Losses()
    layout = FileLayout(plan.full_layout, plan.metadata())
    workers = workers_on(device, plan.largest_layer)
    with CheckpointWriter(target, layout, overwrite=overwrite) as writer:
        for key, result in zip(keys, ordered_map(convert, keys, workers), strict=True):
            progress(done, total)
            layer = quantized.get(key)
            if result is None or layer is None or layer.form is None:
                writer.write(key, source.chunks(key))
            else:
                writer.write(key, [tensor_bytes(layer.form.encode(result.codes))])
                for name, tensor in layer.form.side_tensors_for(
                    layer.stem, result.scale, layer.info.shape, result.group
                ).items():
                    writer.write(name, [tensor_bytes(tensor)])
                losses.add(layer.layer, result)
            done += source.tensors[key].nbytes
        for name, tensor in plan.extra_tensors.items():
            writer.write(name, [tensor_bytes(tensor)])
        source.check_unchanged()
    trim_heap()
    progress(total, total)
    return Report.of(plan, statistics, target, losses)
