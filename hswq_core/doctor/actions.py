"""What a machine does with layers of a kind, by the loader that opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from ..files.dtypes import TORCH_DTYPES
from ..inference.fp8_matmul import fits_fp8_matmul
from ..inference.int8_linear import fits_int8_linear
from .contents import Contents
from .groups import Group
from .kinds import (
    BNB_INT8,
    COMFY_E5M2,
    COMFY_FP8,
    FP8,
    FP8_E5M2,
    INT8_TENSORWISE,
    MXFP8,
    NUNCHAKU_AWQ,
    SCALED_FP8,
    W4A4,
    W4A8,
    Product,
)
from .layer import CHANNEL, TENSOR, QuantizedLayer
from .machine import Machine
from .openings import NEW, OLD, Opening
from .openings.opening import HSWQ_LOADER

Does = Literal[
    "computes in 8 bits", "computes in 4 bits", "expands in each call", "expands when loaded",
    "casts kept layers to FP8", "keeps them in their type", "fails",
]  # fmt: skip
FAST = f"{HSWQ_LOADER}, fast"
_BITS: dict[Product, Does] = {
    "fp8": "computes in 8 bits", "mxfp8": "computes in 8 bits", "int8": "computes in 8 bits",
    "nvfp4": "computes in 4 bits", "int4": "computes in 4 bits",
}  # fmt: skip
_NAMES: dict[Product, str] = {"fp8": "FP8", "mxfp8": "MXFP8", "int8": "INT8", "nvfp4": "NVFP4", "int4": "INT4"}
_IN_FP8 = (FP8, FP8_E5M2, SCALED_FP8, COMFY_FP8, COMFY_E5M2, MXFP8)
_SINCE = {"fp8": "RTX 40", "mxfp8": "RTX 50", "nvfp4": "RTX 50", "int8": "RTX 20", "int4": "RTX 20, to RTX 40"}


@dataclass(frozen=True)
class Action:
    """Attributes: layers: how many of a group's it is said of."""

    loader: str
    does: Does
    layers: int
    reason: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.does}{why}" + (f". {self.remedy}" if self.remedy else "")


def actions_of(group: Group, contents: Contents, machine: Machine, openings: Sequence[Opening]) -> list[Action]:
    """What is done with a group, by every loader that opens the file."""
    found: list[Action] = []
    for opening in openings:
        if not opening.opens:
            continue
        if opening.loader in (OLD, NEW):
            found.append(_stock(group, contents, machine, opening.loader))
        elif opening.loader == HSWQ_LOADER:
            found += _ours(group, contents, machine)
        else:
            found.append(_other(group, machine, opening.loader))
    return found


def kept_actions(contents: Contents, machine: Machine, openings: Sequence[Opening]) -> list[Action]:
    """What is done with the diffusion model's layers that are not quantized."""
    kept = len(contents.kept_in("diffusion model"))
    layers = contents.in_part("diffusion model")
    if not kept or not layers or contents.container == "gguf":
        return []
    found = []
    for opening in openings:
        if opening.opens:
            found.append(_kept(opening.loader, kept, contents, machine))
    return found


def _kept(loader: str, kept: int, contents: Contents, machine: Machine) -> Action:
    remedy = f"Open it with {HSWQ_LOADER}, which keeps them"
    layers = contents.in_part("diffusion model")
    if loader == OLD and any(layer.kind == SCALED_FP8 for layer in layers):
        linear = sum(len(info.shape) == 2 for info in contents.kept_in("diffusion model").values())
        if linear:
            return Action(loader, "casts kept layers to FP8", linear, "it holds all Linear layers in one type", remedy)
    if loader in (OLD, NEW) and is_plain_fp8(contents) and machine.multiplies("fp8"):
        why = "the model's type is that of most weights, on a card with FP8 arithmetic"
        return Action(loader, "casts kept layers to FP8", kept, why, remedy)
    return Action(loader, "keeps them in their type", kept)


def is_plain_fp8(contents: Contents) -> bool:
    """Whether stock loaders take FP8 for the type of the whole model: most weights are, and no layer is described."""
    layers = contents.in_part("diffusion model")
    if any(layer.kind.family == "comfy" or layer.kind == SCALED_FP8 for layer in layers):
        return False
    plain = sum(layer.numel for layer in layers if layer.kind in (FP8, FP8_E5M2))
    kept = sum(info.numel for info in contents.kept_in("diffusion model").values())
    return plain > kept


def _stock(group: Group, contents: Contents, machine: Machine, loader: str) -> Action:
    kind, count, product = group.kind, len(group.layers), group.kind.product
    if not machine.holds_fp8 and kind in _IN_FP8:
        why = f"{machine.name} has no FP8"
        return Action(loader, "fails", count, why, f"{HSWQ_LOADER} holds the codes as bytes")
    if kind in (FP8, FP8_E5M2) and group.part != "diffusion model":
        return Action(loader, "expands in each call", count)
    if kind in (FP8, FP8_E5M2):
        if not is_plain_fp8(contents):
            return Action(loader, "expands when loaded", count, "most weights are not FP8")
        if not machine.multiplies("fp8"):
            why = f"{machine.name} has no FP8 arithmetic, so the model is held in 16 bits"
            return Action(loader, "expands when loaded", count, why, f"{HSWQ_LOADER} holds it in 8 bits")
        if machine.fast_fp8 and kind == FP8 and not group.convolutions:
            return Action(loader, "computes in 8 bits", count, "inputs are rounded to FP8 with scale 1")
        why = "" if group.convolutions or kind != FP8 else "FP8 products want --fast fp8_matrix_mult"
        return Action(loader, "expands in each call", count, why)
    if group.exact:
        return Action(loader, "expands in each call", count, "as the file says (full_precision_matrix_mult)")
    if kind in (INT8_TENSORWISE, W4A8):  # on every device, by the kernels that are there
        return Action(loader, "computes in 8 bits", count, "each row of the inputs is rounded to INT8")
    if kind == W4A4 and not machine.multiplies("int4"):
        return Action(loader, "expands in each call", count, "inputs are rounded to 4 bits all the same")
    if (product == "fp8" and contents.tensors[group.layers[0].codes].dtype == "F8_E5M2") or kind == COMFY_E5M2:
        return Action(loader, "expands in each call", count, "cards do not multiply E5M2 with E5M2")
    if product == "fp8" and group.group == CHANNEL:
        return Action(loader, "expands in each call", count, "FP8 products take one scale for a weight")
    if loader == OLD and kind == COMFY_FP8 and not any(layer.input_scale for layer in group.layers):
        return Action(loader, "expands in each call", count, "it multiplies in FP8 only with a scale for inputs")
    if not machine.multiplies(product):
        return Action(loader, "expands in each call", count, _lacks(machine, product))
    why = ""
    if product == "fp8" and not all(layer.input_scale for layer in group.layers):
        why = "inputs are rounded to FP8 with scale 1: what is above 448 is lost"
    return Action(loader, _BITS[product], count, why)


def _ours(group: Group, contents: Contents, machine: Machine) -> list[Action]:
    count = len(group.layers)
    if not machine.holds_fp8 and group.kind.product == "fp8":
        exact = Action(HSWQ_LOADER, "expands in each call", count, "held as bytes: the device has no FP8")
    else:
        exact = Action(HSWQ_LOADER, "expands in each call", count, "exact: inputs are not rounded")
    if group.part != "diffusion model":
        held = group.kind in (FP8, FP8_E5M2) and machine.holds_fp8
        return [Action(HSWQ_LOADER, "expands in each call" if held else "expands when loaded", count)]
    fast = sum(_multiplied_fast(layer, contents, machine) for layer in group.layers)
    if fast:
        exact_ones = "" if fast == count else f"{count - fast} of odd sizes are expanded"
        return [exact, Action(FAST, "computes in 8 bits", fast, exact_ones)]
    return [exact, Action(FAST, "expands in each call", count, _why_not_fast(group, machine))]


def _multiplied_fast(layer: QuantizedLayer, contents: Contents, machine: Machine) -> bool:
    """As ``compute: fast`` has it."""
    dtype = contents.tensors[layer.codes].dtype
    if layer.is_convolution or not layer.plain_codes or not machine.multiplies(layer.kind.product):
        return False
    codes = torch.empty(layer.shape, dtype=TORCH_DTYPES[dtype], device="meta")
    scale = torch.empty(layer.shape[0] if layer.group == CHANNEL else 1, device="meta")
    return fits_fp8_matmul(codes, scale) or fits_int8_linear(codes, scale, torch.device(machine.kind))


def _why_not_fast(group: Group, machine: Machine) -> str:
    if group.convolutions:
        return "convolutions are exact"
    if group.kind.product not in ("fp8", "int8") or not group.layers[0].plain_codes:
        return "this kind has no product in 8 bits"
    if not machine.multiplies(group.kind.product):
        return _lacks(machine, group.kind.product)
    return "scales by channel" if group.group not in (TENSOR, "none") else "odd sizes"


def _lacks(machine: Machine, product: Product) -> str:
    since = _SINCE[product] if product else ""
    return f"{machine.name} does not multiply {_NAMES[product]}; cards do from {since} on" if product else ""


def _other(group: Group, machine: Machine, loader: str) -> Action:
    if group.kind.family == "nunchaku":
        return _nunchaku(group, machine, loader)
    if group.kind.family in ("bitsandbytes", "llm.int8"):
        return _bitsandbytes(group, machine, loader)
    return Action(loader, "expands in each call", len(group.layers), "inputs stay in 16 bits")


def _bitsandbytes(group: Group, machine: Machine, loader: str) -> Action:
    count = len(group.layers)
    if machine.kind == "mps":
        return Action(loader, "fails", count, "bitsandbytes has no kernels for it", "Use a GGUF file of the model")
    if group.kind == BNB_INT8:
        return Action(loader, "computes in 8 bits", count, "outliers of the inputs stay in 16 bits")
    return Action(loader, "expands in each call", count)


def _nunchaku(group: Group, machine: Machine, loader: str) -> Action:
    count, product = len(group.layers), group.kind.product
    if group.kind == NUNCHAKU_AWQ:
        if machine.kind == "cuda":
            return Action(loader, "expands in each call", count, "inputs stay in 16 bits")
        return Action(loader, "fails", count, "Nunchaku's kernels are for CUDA cards", "Use a GGUF file of the model")
    if machine.multiplies(product):
        return Action(loader, "computes in 4 bits", count)
    other = "the INT4 file" if product == "nvfp4" else "the NVFP4 file"
    remedy = f"Take {other} of the model" if machine.kind == "cuda" else "Use a GGUF file of the model"
    return Action(loader, "fails", count, _lacks(machine, product), remedy)
