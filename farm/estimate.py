"""What a recipe will take: tasks, how many are done, time as far as finished ones tell, and disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hswq_core.errors import HSWQError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.layers import find_prefix, layer_weights
from hswq_core.files.source import TensorSource

from .store import Store
from .tables import Recipe
from .tasks import KINDS, Kind, Task

_SIZE_OF_OUTPUT = 0.65
"""Of the source, where nothing tells better: between the half of all layers in 8 bits and what is kept."""


def seconds_left(tasks: Sequence[Task], store: Store, workers: int) -> float | None:
    """For what is not done; ``None`` while no task of some kind was ever finished here."""
    average, left = store.seconds_by_kind(), Counter(task.kind for task in tasks if not store.has(task.name))
    if any(kind not in average for kind in left):
        return None
    return sum(average[kind] * count for kind, count in left.items()) / max(workers, 1)


def done_by_kind(tasks: Sequence[Task], store: Store) -> list[tuple[Kind, int, int]]:
    """The kinds of tasks that there are, in their order, each with how many are done and how many there are."""
    counts = Counter(task.kind for task in tasks)
    done = Counter(task.kind for task in tasks if store.has(task.name))
    return [(kind, done[kind], counts[kind]) for kind in KINDS if counts[kind]]


def bytes_on_disk(recipe: Recipe) -> int:
    """Of everything that the farm will have made."""
    return sum(_of_checkpoint(recipe, path) for path in recipe.checkpoints)


def _of_checkpoint(recipe: Recipe, path: Path) -> int:
    try:
        with CheckpointReader(path) as reader:
            statistics = _statistics_bytes(reader, recipe.calibration.rows_per_layer)
    except HSWQError:
        return 0  # a task will say what is wrong with it
    purposes = {options.measured_as for options in recipe.outputs if options.selection == "measured"}
    copies = recipe.calibration.parts + 1 + len(purposes)  # the parts, their sum, and one for each purpose
    return statistics * copies + int(path.stat().st_size * _SIZE_OF_OUTPUT) * len(recipe.outputs)


def _statistics_bytes(reader: TensorSource, rows: int) -> int:
    """Rows of every layer in FP16; layers that share an input share their rows, so this is what there is at most."""
    return sum(2 * rows * math.prod(info.shape[1:]) for _, info in layer_weights(reader, find_prefix(reader)).items())


def plan_text(recipe: Recipe, tasks: Sequence[Task], store: Store, workers: int) -> str:
    """The plan for people: every task with its name and state, then sums."""
    lines = [f"{'done' if store.has(task.name) else 'to do':<6} {task.name}  {task.label}" for task in tasks]
    lines += [f"{kind:<12} {done:>5} of {count} done" for kind, done, count in done_by_kind(tasks, store)]
    left = seconds_left(tasks, store, workers)
    time = "unknown until one task of each kind is done" if left is None else f"about {duration(left)}"
    lines += [f"time left: {time} with {workers} worker{'s' if workers > 1 else ''}"]
    lines += [f"disk: at most {bytes_on_disk(recipe) / 1e9:,.1f} GB in {recipe.folder}"]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
