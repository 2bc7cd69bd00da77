"""What writing a file takes, told before it is written: disk, and memory while its layers are rounded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .files.long_path import long_path
from .files.source import TensorInfo
from .parallel import working_memory
from .sensitivity.gradient import KEPT_MEMORY
from .sizes import size_in_words

_BYTES_A_WEIGHT = 2
"""Of a model as it is measured."""
_KEPT_ON_CPU = 4
"""Bytes of activations, and of what roundings do to them, for each weight of a model: SDXL's, where all forms of
*mixed* are measured in float32 (benchmarks.scale). Wide models have large activations, too."""


@dataclass(frozen=True)
class Estimate:
    """In bytes.

    Attributes:
        nbytes: of the file; at most as many are free on the disk when it can be written.
        disk_free: on the disk of the target's folder.
        memory: that the layers in work take together, beside the statistics: of RAM, or of the card.
    """

    nbytes: int
    disk_free: int
    memory: int

    def as_dict(self) -> Mapping[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        enough = "" if self.nbytes <= self.disk_free else ": not enough"
        return (
            f"needs {size_in_words(self.nbytes)} of disk ({size_in_words(self.disk_free)} free{enough}), "
            f"and at most {size_in_words(self.memory)} of memory while layers are rounded"
        )


def estimate(nbytes: int, largest: int, folder: Path) -> Estimate:
    """Args: nbytes: of the file. largest: weights of its largest layer. folder: where it goes, there yet or not."""
    return Estimate(nbytes, free_bytes(folder), working_memory(largest))


def measuring_memory(weights: Iterable[TensorInfo], device: torch.device) -> int:
    """Bytes that measuring sensitivity by gradients takes with all of the model at hand: weights and activations."""
    count = sum(info.numel for info in weights)
    kept = _KEPT_ON_CPU * count if device.type == "cpu" else min(KEPT_MEMORY, _BYTES_A_WEIGHT * count)
    return _BYTES_A_WEIGHT * count + kept


def free_bytes(folder: Path) -> int:
    """Free on the disk that a folder is on, or will be."""
    place = long_path(folder.absolute())
    while not os.path.isdir(place) and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free
