"""What is to be made of which checkpoints: a TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import tomllib

from hswq_core.errors import HSWQError
from hswq_core.options import METHODS, QuantizeOptions
from hswq_core.prompts import read_prompts
from hswq_core.publishing import About

from .comfyui_names import AskNames, wrong_names
from .headers import mistakes_in_headers
from .lines import Lines
from .outputs import read_output, rows_missing, unknown_key


class RecipeError(HSWQError):
    """A recipe that cannot be carried out; ``what`` has a line for each mistake."""


def _number(default: float, least: float, most: float) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Drawing:
    """How images are made: as KSampler and the nodes that make images have it."""

    prompts: str = ""
    negative: str = ""
    steps: int = _number(25, 1, 1000)
    cfg: float = _number(7.0, 0, 100)
    sampler: str = "euler"
    scheduler: str = "normal"
    width: int = _number(1024, 64, 8192)
    height: int = _number(1024, 64, 8192)


@dataclass(frozen=True)
class Calibration(Drawing):
    """As HSWQ Calibrate Run; the images are divided among ``shards``, which are calibrated apart and added up."""

    samples: int = _number(32, 1, 4096)
    shards: int = _number(4, 1, 256)
    seed: int = _number(0, 0, 2**40)
    rows_per_layer: int = _number(1024, 0, 65536)

    @property
    def parts(self) -> int:
        """How many shards there are: each has an image at least."""
        return min(self.shards, self.samples)


@dataclass(frozen=True)
class Sensitivity:
    """As HSWQ Measure Sensitivity; it is measured for the outputs that are selected by it."""

    probes: int = _number(8, 1, 32)
    method: str = field(default="gradient", metadata={"choices": METHODS})


@dataclass(frozen=True)
class Proof(Drawing):
    """As HSWQ Prove."""

    seeds: int = _number(8, 1, 256)
    seed: int = _number(1000, 0, 2**40)


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    base: where its relative paths begin.
    folder: where all that is made goes.
    checkpoints: the files, in the order of their names.
    outputs: what is made of each; ``proof`` and ``card`` beside each of them, where they are asked for.
    comfyui_arguments: more of the command line of each worker's ComfyUI, as --lowvram.
    shared: whether ``folder`` is the same for all nodes; otherwise results travel through Ray.
    attempts: how often a task is tried before it is set aside.
    threads: of each worker's ComfyUI on a CPU; fixed, since sums differ in their last bits with their number.
    """

    base: Path
    folder: Path
    checkpoints: tuple[Path, ...]
    calibration: Calibration
    sensitivity: Sensitivity
    outputs: tuple[QuantizeOptions, ...]
    proof: Proof | None
    card: About | None
    comfyui_arguments: tuple[str, ...]
    shared: bool
    attempts: int
    threads: int


@dataclass(frozen=True)
class _Top:
    folder: str = "farm_out"
    shared: bool = True
    attempts: int = _number(2, 1, 10)
    threads: int = _number(4, 1, 256)


_TABLES: dict[str, type] = {"calibration": Calibration, "sensitivity": Sensitivity, "proof": Proof, "card": About}


def read_recipe(path: Path, ask: AskNames | None = None) -> Recipe:
    """A recipe that was checked against the headers of its checkpoints. Paths in it are relative to its folder.

    Args:
        ask: gives the names of samplers and schedulers, from the arguments of ComfyUI; without it, any name is taken.

    Errors: RecipeError that names every mistake with its line.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe cannot be read ({error})", where=path, remedy="Give a TOML file") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"this is no TOML: {error}", where=path, remedy="See docs/farm.md for an example") from error
    reading = _Reading(path, Lines(text))
    recipe = reading.recipe(data, ask)
    if reading.mistakes or recipe is None:
        listed = "\n".join(f"  line {line}: {what}" for line, what in sorted(reading.mistakes))
        raise RecipeError(
            f"{len(reading.mistakes)} mistakes:\n{listed}", where=path, remedy="See docs/farm.md for all keys"
        )
    return recipe


class _Reading:
    """One recipe being read; ``mistakes`` are lines and what is wrong there."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self._base, self._lines = path.resolve().parent, lines
        self.mistakes: list[tuple[int, str]] = []

    def recipe(self, data: dict[str, Any], ask: AskNames | None) -> Recipe | None:
        known = {"checkpoints", "outputs", "comfyui_arguments", *_TABLES, *(f.name for f in fields(_Top))}
        for key in data.keys() - known:
            self._unknown("", 0, key, known)
        top = self._table(_Top, "", 0, {k: v for k, v in data.items() if k in {f.name for f in fields(_Top)}})
        checkpoints = self._checkpoints(data.get("checkpoints"))
        outputs = self._outputs(data.get("outputs"))
        arguments = data.get("comfyui_arguments", [])
        if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
            self._wrong("", 0, "comfyui_arguments", "comfyui_arguments is to be a list of texts, as ['--lowvram']")
            arguments = []
        parts = {name: self._table(kind, name, 0, data.get(name, {})) for name, kind in _TABLES.items()}
        calibration, drawing = parts["calibration"], {name: parts[name] for name in ("calibration", "proof")}
        for name, part in drawing.items():
            self._check_prompts(name, part.prompts)
        mistakes = mistakes_in_headers(checkpoints, outputs.items())
        mistakes += rows_missing(outputs, calibration.rows_per_layer)
        mistakes += wrong_names(drawing, arguments, ask)
        for mistake in mistakes:
            self._wrong(*mistake)
        if self.mistakes:
            return None
        return Recipe(
            base=self._base,
            folder=self._base / top.folder,
            checkpoints=checkpoints,
            outputs=tuple(outputs.values()),
            calibration=calibration,
            sensitivity=parts["sensitivity"],
            proof=parts["proof"] if "proof" in data else None,
            card=parts["card"] if "card" in data else None,
            comfyui_arguments=tuple(arguments),
            shared=top.shared,
            attempts=top.attempts,
            threads=top.threads,
        )

    def _wrong(self, table: str, index: int, key: str, what: str) -> None:
        self.mistakes.append((self._lines.of(table, index, key), what))

    def _unknown(self, table: str, index: int, key: str, known: set[str]) -> None:
        self._wrong(table, index, key, unknown_key(key, known))

    def _table(self, kind: type, table: str, index: int, values: Any) -> Any:
        """A dataclass from a table. What is wrong in it has its default, so that the rest is checked, too."""
        if not isinstance(values, Mapping):
            self._wrong(table, index, "", f"{table!r} is to be a table")
            return kind()
        types, right = get_type_hints(kind), dict[str, Any]()
        bounds = {each.name: each.metadata for each in fields(kind)}
        for key, value in values.items():
            if key not in types:
                self._unknown(table, index, key, set(types))
                continue
            wanted, limits = types[key], bounds[key]
            number = wanted in (int, float)
            fits = isinstance(value, (int, float) if wanted is float else wanted)
            if not fits or (isinstance(value, bool) and number):
                kinds = {str: "a text", bool: "true or false"}
                self._wrong(table, index, key, f"{key} is {value!r}; give {kinds.get(wanted, 'a number')}")
            elif number and not limits.get("least", value) <= value <= limits.get("most", value):
                allowed = f"from {limits['least']} to {limits['most']}"
                self._wrong(table, index, key, f"{key} is {value}; give a number {allowed}")
            elif value not in limits.get("choices", (value,)):
                self._wrong(table, index, key, f"{key} is {value!r}; choose one of {', '.join(limits['choices'])}")
            else:
                right[key] = value
        return kind(**right)

    def _checkpoints(self, patterns: Any) -> tuple[Path, ...]:
        if not isinstance(patterns, list) or not patterns or not all(isinstance(each, str) for each in patterns):
            self._wrong("", 0, "checkpoints", "checkpoints is to be a list of paths or patterns, as ['models/*']")
            return ()
        found: list[Path] = []
        for pattern in patterns:
            paths = sorted(glob.glob(os.path.join(self._base, pattern), recursive=True))
            if not paths:
                self._wrong("", 0, "checkpoints", f"there is no file {pattern!r}")
            usable = [Path(path) for path in paths if Path(path).suffix in (".safetensors", ".sft")]
            if paths and (not usable or (len(paths) > len(usable) and not glob.has_magic(pattern))):
                self._wrong("", 0, "checkpoints", f"{pattern!r} names no safetensors file")
            found += usable
        unique = sorted(set(found), key=lambda path: (path.stem, str(path)))
        for stem, count in Counter(path.stem for path in unique).items():
            if count > 1:
                self._wrong("", 0, "checkpoints", f"{count} checkpoints are named {stem!r}; rename one of them")
        return tuple(unique)

    def _outputs(self, tables: Any) -> dict[int, QuantizeOptions]:
        """By number."""
        if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
            self._wrong("", 0, "outputs", "at least one [[outputs]] is needed, with a mode")
            return {}
        found: dict[int, QuantizeOptions] = {}
        for index, table in enumerate(tables):
            options, mistakes = read_output(table)
            for key, what in mistakes:
                self._wrong("outputs", index, key, what)
            found[index] = options
        return found

    def _check_prompts(self, table: str, name: str) -> None:
        try:
            if name:
                read_prompts(self._base / name)
        except HSWQError as error:
            self._wrong(table, 0, "prompts", f"{name}: {error.what}")
