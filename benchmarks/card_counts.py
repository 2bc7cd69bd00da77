"""What a step costs a card, counted on tensors without data: launches, bytes, products, memory, and reads.

How it is counted. Every operation of torch that reaches a device is seen once, after operations made of others were
taken apart as torch does it. Views, and what only makes room, launch nothing. Any other operation is one launch of a
kernel, but for those in ``KERNELS``. Bytes are those of its tensors, read or written, once each; products are
torch's own formulas (``torch.utils.flop_counter``), two for each multiplication and addition. What libraries launch
within one product (cuBLAS's sums of split products) is not seen. One of our own kernels reports itself
(``card_kernels.py``).

Tensors on a card and tensors of the CPU may not meet in an operation, but for single numbers, which a launch takes
along. A *read* makes the host wait for the card: ``.item()``, ``.cpu()``, ``float(tensor)``, an ``if`` on one. A read
number is made up, so that the step goes on. A *send* is a copy to the card from memory that is not pinned.
"""

from __future__ import annotations

import itertools
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

aten: Any = torch.ops.aten
PRODUCTS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._int_mm: flop_registry[aten.mm],
}
KERNELS: dict[Any, tuple[int, float]] = {
    aten.convolution: (5, 3.5),
    aten.convolution_backward: (4, 3.0),
    aten.native_group_norm: (3, 1.5),
    aten.native_group_norm_backward: (4, 2.0),
    aten._scaled_dot_product_flash_attention_backward: (3, 1.5),
    aten._scaled_dot_product_efficient_attention_backward: (3, 1.5),
    aten.randperm: (6, 6.0),
    aten.sort: (4, 4.0),
}
"""Launches, and how often the operation's bytes go by, where it is not once. A convolution of 16 bits in PyTorch's
usual layout is, on tensor cores, three changes of layout (input, weight, output), the product, and the bias."""
ROOM = (
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.set_,
    aten.resize_,
)
READS = (aten._local_scalar_dense, aten.equal)
COPIES = (aten._to_copy, aten.copy_)
PICKS = (aten.index, aten.index_select, aten.gather, aten.embedding)
"""They read as much of their first tensor as they write, and not all of it."""


@dataclass(frozen=True)
class Launch:
    """One operation on a card. Attributes: kind: of its products, "half", "int8", "fp8" or "float"."""

    name: str
    launches: int
    moved: float
    products: int = 0
    kind: str = "half"


@dataclass
class StepCount:
    """All of a step.

    Attributes:
        copies: between CPU and card, those that nobody waits for included.
        mixed, reads, sends: operation and line of code of each.
        peak: bytes on the card.
    """

    operations: list[Launch] = field(default_factory=list)
    copies: int = 0
    mixed: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    sends: list[str] = field(default_factory=list)
    peak: int = 0

    @property
    def launches(self) -> int:
        return sum(each.launches for each in self.operations)

    @property
    def moved(self) -> float:
        return sum(each.moved for each in self.operations)

    @property
    def products(self) -> int:
        return sum(each.products for each in self.operations)


class CardCounter(TorchDispatchMode):
    """Active around everything that makes tensors; ``step`` counts a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self._step = StepCount()
        self._storages: dict[int, int] = {}
        self._pinned: Any = WeakIdKeyDictionary()
        self._numbers = itertools.count(1)
        self.held = 0

    @contextmanager
    def step(self) -> Iterator[StepCount]:
        """Count what is computed meanwhile."""
        outer, self._step = self._step, StepCount(peak=self.held)
        try:
            yield self._step
        finally:
            self._step = outer

    def steps(self) -> Iterator[StepCount]:
        """What was computed since the last one was asked for, without end."""
        while True:
            done, self._step = self._step, StepCount(peak=self.held)
            yield done

    def launch(self, name: str, moved: float, launches: int = 1) -> None:
        """A kernel of our own."""
        self._step.operations.append(Launch(name, launches, moved))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not all(issubclass(kind, (FakeTensor, torch.nn.Parameter)) or kind is torch.Tensor for kind in types):
            return NotImplemented  # a tensor made of others, which are seen next
        packet = func.overloadpacket
        if func.namespace == "prim":  # a question about a tensor
            return func(*args, **kwargs)
        if func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        on_card = any(map(_on_card, given))
        if on_card and packet not in COPIES and any(t.dim() and not _on_card(t) for t in given):
            self._step.mixed.append(_where(func))
        if packet in READS:
            if on_card:
                self._step.reads.append(_where(func))
            return True if packet is aten.equal else self._number(given[0])
        pinned = kwargs.pop("pin_memory", False) if packet is aten.empty else False
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        if pinned:
            self._pinned.update((each, None) for each in made)
        self._hold(made)
        if on_card or any(map(_on_card, made)):
            self._count(func, given, made, args, kwargs, result)
        return result

    def _count(
        self, func: Any, given: list[torch.Tensor], made: list[torch.Tensor], args: Any, kwargs: Any, result: Any
    ) -> None:
        packet, step = func.overloadpacket, self._step
        known = {_storage(each) for each in given}
        if packet in ROOM or (not func._schema.is_mutable and made and all(_storage(each) in known for each in made)):
            return
        if packet in COPIES and not self._copy(func, given, made, args, kwargs):
            return
        launches, passes = KERNELS.get(packet, (1, 1.0))
        biased = packet is aten.convolution and args[2] is not None
        if packet is aten.convolution and not biased:
            launches, passes = launches - 1, passes - 0.5
        read = made if packet in PICKS else given
        tensors = {id(each): each for each in [*read, *made, *(given[1:] if packet in PICKS else ())]}
        moved = sum(map(_bytes, tensors.values())) * passes
        products = int(PRODUCTS[packet](*args, **kwargs, out_val=result)) if packet in PRODUCTS else 0
        step.operations.append(Launch(str(packet), launches, moved, products, _kind_of(given)))

    def _copy(self, func: Any, given: list[torch.Tensor], made: list[torch.Tensor], args: Any, kwargs: Any) -> bool:
        """Tell of copies between CPU and card; whether it is one within the card."""
        source = given[-1] if func.overloadpacket is aten.copy_ else given[0]
        target = made[0]
        if _on_card(source) and _on_card(target):
            return True
        waits = not (kwargs.get("non_blocking") or (func.overloadpacket is aten.copy_ and args[2:3] == (True,)))
        if _on_card(source) and (waits or target not in self._pinned):
            self._step.reads.append(_where(func))
        elif _on_card(target) and source not in self._pinned:
            self._step.sends.append(_where(func))
        self._step.copies += 1
        return False

    def _number(self, tensor: torch.Tensor) -> Any:
        """Made up: each is larger than the last one."""
        constant = getattr(tensor, "constant", None)
        number = next(self._numbers) if constant is None else constant.tolist()
        if tensor.dtype == torch.bool:
            return bool(number)
        return float(number) if tensor.is_floating_point() else number

    def _hold(self, made: list[torch.Tensor]) -> None:
        """Follow the memory of tensors on the card until it is given back."""
        for each in made:
            if not _on_card(each) or _storage(each) in self._storages:
                continue
            storage, key = each.untyped_storage(), _storage(each)
            self._storages[key] = size = -(-storage.nbytes() // 512) * 512  # as torch gives it out
            self.held += size
            self._step.peak = max(self._step.peak, self.held)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.held -= self._storages.pop(key)


def _on_card(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """Of a tensor's numbers, each once where it is expanded."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def _kind_of(given: list[torch.Tensor]) -> str:
    kinds = {each.dtype for each in given}
    if torch.int8 in kinds:
        return "int8"
    return "fp8" if torch.float8_e4m3fn in kinds else "float" if torch.float32 in kinds else "half"


def _where(func: Any) -> str:
    """The operation, and the innermost line of ours or of ComfyUI's that led to it."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and not frame.filename.endswith(__file__.rpartition("/")[2]):
            return f"{func} at {frame.filename}:{frame.lineno}"
    return str(func)
