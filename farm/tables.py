"""The tables of a recipe as pydantic models: keys, types, bounds and defaults, all of them those of the nodes.

A model is validated with the recipe's folder as context: ``{"base": folder}``. Validators say whole sentences.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationInfo,
    WrapValidator,
)

from hswq_core.errors import HSWQError
from hswq_core.options import Method, QuantizeOptions
from hswq_core.prompts import VARIED, read_prompts
from hswq_core.publishing.licences import checked_licence

from .outputs import as_value_error, read_output

LISTS = {
    "checkpoints": "checkpoints is to be a list of paths or patterns, as ['models/*']",
    "outputs": "at least one [[outputs]] is needed, with a mode",
    "comfyui_arguments": "comfyui_arguments is to be a list of texts, as ['--lowvram']",
}
"""What is said of what is not such a list."""
_SUFFIXES = (".safetensors", ".sft")


def _between(least: int, most: int) -> AfterValidator:
    def check(value: float, info: ValidationInfo) -> float:
        if not least <= value <= most:
            raise ValueError(f"{info.field_name} is {value!r}; give a number from {least} to {most}")
        return value

    return AfterValidator(check)


def _as_written(value: Any, check: Callable[[Any], Any]) -> Any:
    """A whole number stays one: tasks are named by what is written."""
    check(value)
    return value


def _text(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{info.field_name} is {value!r}; give a text")
    return value


def _licence(value: str) -> str:
    with as_value_error("licence"):
        return checked_licence(value)


def _in_base(value: object, info: ValidationInfo) -> Path:
    return (info.context or {})["base"] / _text(value, info)


def _prompts(value: object, info: ValidationInfo) -> list[str]:
    """The lines of a file; a varied list without one."""
    name = _text(value, info)
    try:
        return read_prompts(_in_base(name, info)) if name else list(VARIED)
    except HSWQError as error:
        raise ValueError(f"{name}: {error.what}") from error


def _files(pattern: object, info: ValidationInfo) -> list[Path]:
    """The checkpoints that a path or a pattern names."""
    if not isinstance(pattern, str):
        raise ValueError(LISTS["checkpoints"])
    paths = [Path(path) for path in sorted(glob.glob(os.path.join(_in_base(pattern, info)), recursive=True))]
    if not paths:
        raise ValueError(f"there is no file {pattern!r}")
    usable = [path for path in paths if path.suffix in _SUFFIXES]
    if not usable or (len(paths) > len(usable) and not glob.has_magic(pattern)):
        raise ValueError(f"{pattern!r} names no safetensors file")
    return usable


_FILES = TypeAdapter(list[Annotated[list[Path], BeforeValidator(_files)]], config=ConfigDict(strict=True))


def _checkpoints(patterns: object, info: ValidationInfo) -> list[Path]:
    """All of them once, in the order of their names."""
    found = {path for paths in _FILES.validate_python(patterns, context=info.context) for path in paths}
    return sorted(found, key=lambda path: (path.stem, str(path)))


class Table(BaseModel):
    """A table knows its keys, and takes no value for another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Drawing(Table):
    """How images are made: as KSampler and the nodes that make images have it."""

    prompts: Annotated[list[str], BeforeValidator(_prompts)] = list(VARIED)
    negative: str = ""
    steps: Annotated[int, _between(1, 1000)] = 25
    cfg: Annotated[float, _between(0, 100), WrapValidator(_as_written)] = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"
    width: Annotated[int, _between(64, 8192)] = 1024
    height: Annotated[int, _between(64, 8192)] = 1024

    def settings(self) -> dict[str, Any]:
        """All of it as plain data, for the tasks; prompts as lines."""
        return dict(self) | {"prompts": "\n".join(self.prompts)}


class Calibration(Drawing):
    """As HSWQ Calibrate Run; the images are divided among ``shards``, which are calibrated apart and added up."""

    samples: Annotated[int, _between(1, 4096)] = 32
    shards: Annotated[int, _between(1, 256)] = 4
    seed: Annotated[int, _between(0, 2**40)] = 0
    rows_per_layer: Annotated[int, _between(0, 65536)] = 1024

    @property
    def parts(self) -> int:
        """How many shards there are: each has an image at least."""
        return min(self.shards, self.samples)


class Sensitivity(Table):
    """As HSWQ Measure Sensitivity; it is measured for the outputs that are selected by it."""

    probes: Annotated[int, _between(1, 32)] = 8
    method: Method = "gradient"


class Proof(Drawing):
    """As HSWQ Prove."""

    seeds: Annotated[int, _between(1, 256)] = 8
    seed: Annotated[int, _between(0, 2**40)] = 1000


class Card(Table):
    """As HSWQ Publish: what ``About`` has."""

    title: str = ""
    author: str = ""
    licence: Annotated[str, AfterValidator(_licence)] = ""
    base_model: str = ""
    trigger: str = ""


class Recipe(Table):
    """Attributes:
    folder: where all that is made goes.
    checkpoints: the files, in the order of their names.
    outputs: what is made of each; ``proof`` and ``card`` beside each of them, where they are asked for.
    comfyui_arguments: more of the command line of each worker's ComfyUI, as --lowvram.
    shared: whether ``folder`` is the same for all nodes; otherwise results travel through Ray.
    attempts: how often a task is tried before it is set aside.
    threads: of each worker's ComfyUI on a CPU; fixed, since sums differ in their last bits with their number.
    """

    folder: Annotated[Path, BeforeValidator(_in_base)] = Field(default="farm_out", validate_default=True)
    checkpoints: Annotated[list[Path], BeforeValidator(_checkpoints)] = Field(default=[], min_length=1)
    calibration: Calibration = Calibration()
    sensitivity: Sensitivity = Sensitivity()
    outputs: list[Annotated[InstanceOf[QuantizeOptions], BeforeValidator(read_output)]] = Field([], min_length=1)
    proof: Proof | None = None
    card: Card | None = None
    comfyui_arguments: list[str] = []
    shared: bool = True
    attempts: Annotated[int, _between(1, 10)] = 2
    threads: Annotated[int, _between(1, 256)] = 4
