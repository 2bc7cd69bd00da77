"""Why a model cannot be the one that a file was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..files.dtypes import is_float
from ..files.source import TensorInfo


def no_layer_of(file: Path, original: Path) -> CheckpointError:
    return CheckpointError(
        f"no layer of {file.name} is in it", where=original,
        remedy="Give the model that it was made from, with the same names of tensors",
    )  # fmt: skip


def no_diffusion_model(file: Path) -> CheckpointError:
    return CheckpointError(
        "only diffusion models are compared with their original, and there is none in this file", where=file,
        remedy="Leave the original out to see what else there is to say of it",
    )  # fmt: skip


def check_unquantized(tensors: Mapping[str, TensorInfo], weights: Iterable[str], original: Path) -> None:
    """Errors: CheckpointError where one of the weights is not in floating point, and names it."""
    quantized = next((key for key in weights if not is_float(tensors[key].dtype)), None)
    if quantized is not None:
        raise CheckpointError(
            f"the original is quantized itself ({quantized})", where=original, remedy="Give the model in 16 or 32 bits"
        )
