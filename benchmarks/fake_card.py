"""A card that is not there: tensors on "cuda" without data, and stand-ins for what only a driver can do.

Our own kernels cannot be launched on such tensors, so each has a stand-in that makes the results and reports the
launches and bytes of the real one. ``HSWQ_KERNELS`` and self-tests play no part: they are there or they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .card_counts import CardCounter

CARD = torch.device("cuda", 0)
DIFFERENTIABLE = torch.device("meta")
"""The same for backward passes: of a card, torch's engine asks the driver."""
aten: Any = torch.ops.aten


@contextmanager
def fake_card(*, kernels: bool) -> Iterator[CardCounter]:
    """Meanwhile every tensor is without data, and what is computed on ``CARD`` is counted.

    Args:
        kernels: with our Triton kernels, or by torch alone, as on Windows.
    """
    from hswq.hswq_core import backend  # type: ignore[import-not-found]

    counter = CardCounter()
    modules: dict[str, Any] = {}
    if kernels:
        modules = {"e4m3": E4m3(counter), "layer_sums": LayerSums(counter), "packed": Packed(counter)}
        modules["int8"] = Int8(counter)
    on_host = torch.Generator
    stream = mock.Mock(name="stream")
    with ExitStack() as stack:
        for owner, name, value in (
            (torch.cuda, "current_device", lambda: CARD.index),
            (torch.cuda, "current_stream", lambda _device=None: stream),
            (torch, "Generator", lambda _device="cpu": on_host()),
            (ThreadPoolExecutor, "submit", _submit_and_wait),
            (torch.autograd.graph, "_get_tid", lambda tensor: (id(tensor), *_place(tensor))),
            (torch.autograd.graph, "_get_sid", lambda tensor: _place(tensor)),
            (torch.nn.functional, "scaled_dot_product_attention", _flash_attention),
            (backend.Operation, "kernel", lambda operation, _device: modules.get(operation.module)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode())
        yield stack.enter_context(counter)


_submit = ThreadPoolExecutor.submit


def _submit_and_wait(pool: ThreadPoolExecutor, *args: Any) -> Future[Any]:
    """In a thread as always, but one at a time, which is all that tensors without data can do."""
    future = _submit(pool, *args)
    wait([future])
    return future


def _place(tensor: torch.Tensor) -> tuple[int, int]:
    """By which torch knows a tensor's content again where it is saved before a change: by its address, else."""
    return tensor.untyped_storage()._cdata + tensor.storage_offset(), tensor._version


def _flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **_named: Any
) -> torch.Tensor:
    """What torch chooses on a card for 16 bits and no mask."""
    return aten._scaled_dot_product_flash_attention(query, key, value)[0]  # type: ignore[no-any-return]


class E4m3:
    """Stands for ``hswq_core.kernels.e4m3``."""

    def __init__(self, counter: CardCounter) -> None:
        self._launch = counter.launch

    def dequantize(self, codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        self._launch("dequantize", codes.nbytes + out.nbytes)
        return out

    def quantize(self, x: torch.Tensor, scale_floor: float) -> tuple[torch.Tensor, torch.Tensor]:
        codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        scale = torch.empty(1, device=x.device)  # the zero beside it is one of a thousand
        self._launch("quantize an input", 2 * x.nbytes + codes.nbytes, launches=2)
        return codes, scale


class Int8:
    """Stands for ``hswq_core.kernels.int8``."""

    def __init__(self, counter: CardCounter) -> None:
        self._launch = counter.launch

    def quantize_rows(self, rows: torch.Tensor, scale_floor: float) -> tuple[torch.Tensor, torch.Tensor]:
        codes = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
        scale = torch.empty(len(rows), 1, device=rows.device)
        self._launch("quantize rows", 2 * rows.nbytes + codes.nbytes + scale.nbytes)
        return codes, scale

    def scale_sums(
        self,
        sums: torch.Tensor,
        row_scale: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        out = torch.empty(sums.shape, dtype=dtype, device=sums.device)
        self._launch("scale sums", sums.nbytes + out.nbytes)
        return out


class Packed:
    """Stands for ``hswq_core.kernels.packed``."""

    def __init__(self, counter: CardCounter) -> None:
        self._launch = counter.launch

    def dequantize(
        self, packed: torch.Tensor, scale: torch.Tensor, bits: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        out = torch.empty(shape, dtype=dtype, device=packed.device)
        self._launch("expand fewer than 8 bits", packed.nbytes + scale.nbytes + out.nbytes)
        return out


class LayerSums:
    """Stands for ``hswq_core.kernels.layer_sums``."""

    def __init__(self, counter: CardCounter) -> None:
        self._launch = counter.launch

    def measure(
        self,
        params: Any,
        packed: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        input_sums: torch.Tensor,
        output_sums: torch.Tensor,
        chosen: torch.Tensor,
        rows: torch.Tensor,
        first: int,
        count: int,
    ) -> None:
        sampled = 2 * count * params.row * rows.itemsize
        self._launch("measure a layer", (x.nbytes if params.input_programs else 0) + y.nbytes + sampled)
