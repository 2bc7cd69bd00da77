"""What computes: the device of this machine, found out by trying, or a card by its published facts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..devices import REFUSALS, holds
from ..inference.int8_linear import int8_problem
from .cards import capability_of, published
from .kinds import Product

_FIRST: dict[Product, tuple[int, int]] = {
    "int8": (7, 5),
    "int4": (7, 5),
    "fp8": (8, 9),
    "mxfp8": (10, 0),
    "nvfp4": (10, 0),
}
"""The compute capability from which on tensor cores multiply in a type: Turing, Ada, Blackwell."""
_WITHOUT_INT4 = (9, 0)
"""Hopper and Blackwell have no INT4."""


@dataclass(frozen=True)
class Machine:
    """Where a model is to run. A node gives what the running ComfyUI says of itself.

    Attributes:
        name: for people.
        kind: of the device, as torch has it: "cuda", "cpu", "mps".
        products: what codes are multiplied in.
        memory: of the device, bytes; ``None`` where that is not known.
        holds_fp8: whether FP8 tensors can be there at all.
        tried: whether this was found out on the device itself.
        fast_fp8: whether ComfyUI was started with ``--fast fp8_matrix_mult``.
    """

    name: str
    kind: str
    products: frozenset[Product]
    memory: float | None = None
    holds_fp8: bool = True
    tried: bool = False
    fast_fp8: bool = False

    def multiplies(self, product: Product) -> bool:
        """Whether codes are multiplied in this type."""
        return product in self.products

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "kind": self.kind, "computes": sorted(self.products), "memory": self.memory}


def this_machine(device: torch.device | str | None = None) -> Machine:
    """The first card, or the CPU where there is none, or the device that is given."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(device)
    products: set[Product] = set()
    if int8_problem(device) is None:
        products.add("int8")
    if device.type != "cuda":
        name = "this CPU" if device.type == "cpu" else f"this machine's {device.type}"
        # Readers multiply FP8 on cards alone.
        return Machine(name, device.type, frozenset(products), holds_fp8=holds(torch.float8_e4m3fn, device), tried=True)
    facts = torch.cuda.get_device_properties(device)
    if torch.version.cuda:
        products |= {each for each in _products((facts.major, facts.minor)) if each not in ("int8", "fp8")}
    if _multiplies_fp8(device):
        products.add("fp8")
    return Machine(
        facts.name, "cuda", frozenset(products), facts.total_memory, holds(torch.float8_e4m3fn, device), tried=True
    )


def named_card(name: str) -> Machine:
    """A card that need not be here. Errors: PlanError for one that is not known."""
    figures = published(name)
    products = _products(figures.capability if figures else capability_of(name))
    return Machine(name, "cuda", products, figures.memory if figures else None)


def _products(capability: tuple[int, int]) -> frozenset[Product]:
    lacks_int4 = capability >= _WITHOUT_INT4
    return frozenset(
        product for product, first in _FIRST.items() if capability >= first and not (product == "int4" and lacks_int4)
    )


def _multiplies_fp8(device: torch.device) -> bool:
    codes = torch.ones(16, 16, device=device).to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    try:
        torch._scaled_mm(codes, codes.t(), one, one, out_dtype=torch.float16)  # pyright: ignore[reportPrivateImportUsage]
    except REFUSALS:
        return False
    return True
