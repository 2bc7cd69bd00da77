"""The options of quantization as one value that checks itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from .errors import PlanError, nearest_name
from .formats import FORMATS, V2, Form, Format
from .sizes import parse_budget

Selection = Literal["variance", "error", "measured"]
Rounding = Literal["nearest", "calibrated"]
Scales = Literal["tensor", "channel"]
Part = Literal["unet", "text_encoders", "all"]
Method = Literal["gradient", "exact"]
"""How impacts are measured: all layers together by gradients, or one after another."""

SELECTIONS: tuple[Selection, ...] = get_args(Selection)
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
SCALES: tuple[Scales, ...] = get_args(Scales)
PARTS: tuple[Part, ...] = get_args(Part)
METHODS: tuple[Method, ...] = get_args(Method)

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class Purpose:
    """What impacts are measured for: layers in a form, rounded in a way. As a string, their key: "v2 calibrated"."""

    form: Form
    rounding: Rounding

    def __str__(self) -> str:
        return f"{self.form.name} {self.rounding}"


MODEL_CARD = Purpose(V2.form, "nearest")
"""What the model card does, to compare with."""


@dataclass(frozen=True)
class QuantizeOptions:
    """How a checkpoint is to be quantized.

    Attributes:
        mode: the format that is written.
        keep_ratio: the share of the layers that stay as they are, from 0 to 1.
        budget: the size the file may have ("3.2GB", or "57%" of the source); replaces the keep ratio unless empty.
        target: the error of the model's output that the file may have, as measured impacts predict it ("1e-4"): the
            smallest such file is written. In formats alone that choose the bits of each layer; instead of a budget.
        selection: which layers are kept: those with the largest output variance, output error, or measured impact.
        rounding: to the nearest value, or calibrated so that errors cancel in the layer's output.
        scales: whether a ``tensor`` has one scale, or every output ``channel`` its own (v2 only).
        rotate: whether inputs are rotated where that makes the product of integers more exact (int8 and comfy-int8).
        part: what is quantized: the diffusion model, the text encoders (by their weights alone), or both.
        thumbnail: a small picture for the file's header, as a data URI; empty for none.
        force_keep, force_quantize: patterns of layer names (``*`` and ``?``) that are decided beforehand.

    Errors: PlanError for a value that is not among the choices, or not a ratio.
    """

    mode: str = "v2"
    keep_ratio: float = 0.25
    budget: str = ""
    target: str = ""
    selection: Selection = "variance"
    rounding: Rounding = "nearest"
    scales: Scales = "tensor"
    rotate: bool = False
    part: Part = "unet"
    force_keep: tuple[str, ...] = ()
    force_quantize: tuple[str, ...] = ()
    thumbnail: str = ""

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """What impacts must have been measured for to fit these options; the one with the least effect last."""
        return tuple(Purpose(form, self.rounding) for form in FORMATS[self.mode].forms)

    @property
    def measured_as(self) -> str:
        """A mode and a rounding: measured for these, a session has all impacts that these options need."""
        form = FORMATS[self.mode]
        return f"{self.mode if form.menu else form.form.name} {self.rounding}"

    def __post_init__(self) -> None:
        form = FORMATS[check_choice("mode", self.mode, tuple(FORMATS))]
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("rounding", self.rounding, ROUNDINGS)
        check_choice("scales", self.scales, SCALES)
        check_choice("part", self.part, PARTS)
        check_keep_ratio(self.keep_ratio)
        if form.menu:
            # Which bits a layer has is known from measured impacts alone.
            object.__setattr__(self, "selection", "measured")
        self._check_target(form)
        if self.scales == "channel" and form.channel_form is None:
            able = _names(lambda form: form.channel_form is not None)
            raise PlanError(
                f"scales by channel are a choice of {able} alone", remedy=f"Choose {able}, or scales by tensor"
            )
        if not isinstance(self.rotate, bool):
            raise PlanError(f"rotate is {self.rotate!r}", remedy="Give true or false")
        if self.rotate and form.rotated_form is None:
            able = _names(lambda form: form.rotated_form is not None)
            raise PlanError(f"inputs are rotated in {able} alone", remedy=f"Choose {able}, or no rotation")
        if self.part != "unet" and not form.holds_text_encoders:
            raise PlanError(
                f"text encoders are not quantized to {self.mode}",
                remedy=f"Choose one of: {_names(lambda form: form.holds_text_encoders)}",
            )
        if self.thumbnail != "" and not str(self.thumbnail).startswith("data:image/"):
            raise PlanError(
                "the thumbnail is no data URI of a picture", remedy="Use thumbnail_of to make one of a file"
            )
        # One pattern or any sequence of them is welcome; as tuples they make the value hashable.
        for name in ("force_keep", "force_quantize"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        if not isinstance(self.budget, str) or self.budget.strip():
            parse_budget(self.budget, 0)
        object.__setattr__(self, "budget", self.budget.strip())

    def _check_target(self, form: Format) -> None:
        """Errors: PlanError for a target that is not an error, or that this format cannot be written for."""
        object.__setattr__(self, "target", str(self.target).strip())
        if not self.target:
            return
        parse_target(self.target)
        if not form.menu:
            able = _names(lambda form: bool(form.menu))
            raise PlanError(f"a target is for {able} alone", remedy=f"Choose {able}, or give a keep ratio or a budget")
        if str(self.budget).strip():
            raise PlanError("there is a target and a budget", remedy="Give one of them")


def parse_target(target: str) -> float:
    """A predicted error, as in "1e-4". Errors: PlanError for anything else."""
    try:
        found = float(target)
    except ValueError:
        found = math.nan
    if not 0 < found < 1:
        raise PlanError(f"the target is {target!r}", remedy="Give the error of the output that you accept, as in 1e-4")
    return found


def _names(is_able: Callable[[Format], bool]) -> str:
    return ", ".join(name for name, form in FORMATS.items() if is_able(form))


def check_choice(what: str, value: object, choices: tuple[Choice, ...]) -> Choice:
    """``value`` if it is one of the choices. Errors: PlanError that suggests the nearest one."""
    for choice in choices:
        if value == choice:
            return choice
    guess = nearest_name(str(value), choices)
    remedy = f"Did you mean {guess!r}? Choose one of: " if guess else "Choose one of: "
    raise PlanError(f"{value!r} is not a {what}", remedy=remedy + ", ".join(choices))


def _patterns(name: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, (list, tuple)) or not all(isinstance(pattern, str) for pattern in given):
        raise PlanError(f"{name} is {given!r}", remedy="Give patterns of layers' names, as in *.attn2.to_v")
    return tuple(given)


def check_keep_ratio(keep_ratio: float) -> None:
    """Errors: PlanError when it is not a number in [0, 1]."""
    is_number = isinstance(keep_ratio, (int, float)) and not isinstance(keep_ratio, bool)
    if not (is_number and math.isfinite(keep_ratio) and 0.0 <= keep_ratio <= 1.0):
        raise PlanError(f"the keep ratio is {keep_ratio!r}", remedy="Give a number from 0 (keep none) to 1 (keep all)")


MODEL_CARD_OPTIONS = QuantizeOptions(mode=V2.name, keep_ratio=0.1, selection="variance", rounding="nearest")
"""The model card's file, in the smallest of the sizes that it names."""
