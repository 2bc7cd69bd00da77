"""The tasks of a recipe. A task is named by a digest of all that its result depends on, and its result stands in a
folder of that name: what is there is done, whoever did it and whenever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from hswq_core.options import QuantizeOptions
from hswq_core.version import __version__

from .tables import Recipe

Kind = Literal["calibrate", "merge", "sensitivity", "quantize", "prove", "card"]
KINDS: tuple[Kind, ...] = ("calibrate", "merge", "sensitivity", "quantize", "prove", "card")
_PIECE, _PIECES = 1 << 16, 64


@dataclass(frozen=True)
class Task:
    """Attributes:
    settings: what of the recipe it depends on, as plain data.
    needs: the tasks whose results it reads, in the order in which it takes them.
    """

    kind: Kind
    checkpoint: Path
    label: str
    settings: Mapping[str, object]
    needs: tuple[Task, ...] = ()
    content: str = field(default="", repr=False)

    @cached_property
    def name(self) -> str:
        """What its folder is called."""
        depends = {
            "kind": self.kind, "checkpoint": self.checkpoint.stem, "content": self.content, "settings": self.settings,
            "needs": [task.name for task in self.needs], "version": __version__,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode("utf-8")).hexdigest()
        return f"{self.kind}-{digest[:20]}"


def tasks_of(recipe: Recipe) -> list[Task]:
    """All tasks, each after those that it needs; those of one checkpoint together."""
    parts, found = shards_of(recipe), list[Task]()
    for checkpoint in recipe.checkpoints:
        found += _of_checkpoint(recipe, checkpoint, parts)
    return found


def _of_checkpoint(recipe: Recipe, checkpoint: Path, parts: list[dict[str, object]]) -> list[Task]:
    name, content = checkpoint.stem, content_digest(checkpoint)
    shards = [
        Task("calibrate", checkpoint, f"{name}: calibrate, part {number} of {len(parts)}", settings, (), content)
        for number, settings in enumerate(parts, 1)
    ]
    merged = Task("merge", checkpoint, f"{name}: add up", {}, tuple(shards), content)
    made, measured = [*shards, merged], dict[str, Task]()
    for options in recipe.outputs:
        purpose, statistics = options.measured_as, merged
        if options.selection == "measured":
            if purpose not in measured:
                settings = dict(recipe.sensitivity) | {"purpose": purpose}
                measured[purpose] = Task(
                    "sensitivity", checkpoint, f"{name}: measure for {purpose}", settings, (merged,), content
                )
                made.append(measured[purpose])
            statistics = measured[purpose]
        made += _of_output(recipe, checkpoint, content, options, statistics)
    return made


def _of_output(
    recipe: Recipe, checkpoint: Path, content: str, options: QuantizeOptions, statistics: Task
) -> list[Task]:
    label = f"{checkpoint.stem}: {options.mode}"
    written = Task("quantize", checkpoint, f"{label}: write", _settings_of(options), (statistics,), content)
    made, proof = [written], ()
    if recipe.proof is not None:
        settings = recipe.proof.settings() | {"threads": recipe.threads}
        proof = (Task("prove", checkpoint, f"{label}: prove", settings, (written,), content),)
        made += proof
    if recipe.card is not None:
        made.append(Task("card", checkpoint, f"{label}: card", dict(recipe.card), (written, *proof), content))
    return made


def _settings_of(options: QuantizeOptions) -> dict[str, object]:
    """The options by name. An empty target is left out: tasks from before there were any keep their names."""
    return {name: value for name, value in asdict(options).items() if name != "target" or value}


def shards_of(recipe: Recipe) -> list[dict[str, object]]:
    """The settings of each shard: its own images, by prompt and seed, whoever makes them."""
    asked = recipe.calibration
    prompts, count = asked.prompts, asked.parts
    shards, first = [], 0
    for number in range(count):
        images = asked.samples // count + (number < asked.samples % count)
        mine = [prompts[(first + each) % len(prompts)] for each in range(images)]
        shards.append(
            asked.settings()
            | {"prompts": "\n".join(mine), "samples": images, "seed": asked.seed + first, "shards": count}
            | {"first": first, "threads": recipe.threads}
        )
        first += images
    return shards


def content_digest(checkpoint: Path) -> str:
    """A digest of a file's size and of 64 pieces of it, evenly spaced: the same on every machine that has the file."""
    hashed, size = hashlib.sha256(), checkpoint.stat().st_size
    hashed.update(str(size).encode())
    with checkpoint.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, (size - _PIECE) * number // (_PIECES - 1)))
            hashed.update(file.read(_PIECE))
    return hashed.hexdigest()
