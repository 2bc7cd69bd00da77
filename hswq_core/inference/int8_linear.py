"""A Linear layer multiplied in integers: faster, less exact, since each row of the input is rounded to INT8, too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from types import ModuleType

import torch

from ..backend import COMPUTED_IN, KITCHEN, Operation, register
from ..devices import REFUSALS
from ..grids import INT8
from ..rounding.rotation import NONE, rotated

_LEAST_SCALE = 1e-30  # a row of zeros must not divide by zero
_ALIGNMENT = 32  # of both sizes of a weight: what integer kernels of all cards since Turing take
_LEAST_ROWS = 32  # cards refuse products of 16 rows and fewer
_ROWS, _BLOCK = 256, 1 << 17
"""Rows, and numbers, that a CPU works on at a time."""


def fits_int8_linear(codes: torch.Tensor, scale: torch.Tensor, device: torch.device) -> bool:
    """Whether a weight can be multiplied on a device as it is: int8 [C_out, C_in], one scale or one for each row."""
    if codes.dtype != torch.int8 or codes.dim() != 2 or scale.numel() not in (1, codes.shape[0]):
        return False
    return device.type == "cpu" or not any(size % _ALIGNMENT for size in codes.shape)


def int8_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None, group: int = NONE
) -> torch.Tensor | None:
    """x @ (codes * scale).T + bias, x rounded to INT8 row by row; sums are exact, and scaled in float32.

    Args:
        x: [..., C_in], float; each row is scaled by its own largest magnitude.
        codes, scale: a weight for which ``fits_int8_linear``, on a device without ``int8_problem``.
        bias: [C_out].
        group: columns of the weight that are rotated together; x is rotated like them.

    Returns: [..., C_out] in x's type; ``None`` for an input that is not finite. That is known on a CPU alone, without
    waiting for the device: elsewhere what comes of such a row is not finite either.
    """
    rows = x.reshape(-1, x.shape[-1])
    whole, own = (LINEAR.kernel(x.device), ROWS.kernel(x.device)) if x.device.type != "cpu" else (None, None)
    if whole is not None:
        found = whole.int8_linear(rows.contiguous(), codes, scale, bias, group)
    elif own is not None:
        turned = rows if group == NONE else rotated(rows, group)
        quantized, row_scale = own.quantize_rows(turned.contiguous(), _LEAST_SCALE)
        found = own.scale_sums(_product(quantized, codes), row_scale, _of_rows(scale, codes), bias, x.dtype)
    else:
        found = _by_torch(rows, codes, scale, bias, group)
    return None if found is None else found.reshape(*x.shape[:-1], len(codes))


def _by_torch(
    rows: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, group: int
) -> torch.Tensor | None:
    """Of rows [M, C_in]."""
    turned = rows if group == NONE else rotated(rows, group)
    out = torch.empty(len(rows), len(codes), dtype=rows.dtype, device=rows.device)
    for some in _parts(len(rows), _ROWS, rows.device):
        quantized, row_scale = quantize_rows(turned[some])
        if _can_look_at(rows) and not bool(row_scale.isfinite().all()):
            return None
        sums, result = _product(quantized, codes), out[some]
        for part in _parts(len(sums), _BLOCK // len(codes), rows.device):
            result[part] = _scaled(sums[part], row_scale[part], scale, bias)
    return out


def _scaled(
    sums: torch.Tensor, row_scale: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    # In this order, as comfy-kitchen: outputs that differ in a last bit are rounded apart in later layers.
    scaled = sums.float().mul_(row_scale * scale.reshape(1, -1))
    return scaled if bias is None else scaled.add_(bias)


def _of_rows(scale: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """A scale for each row of the codes."""
    return scale.reshape(-1).expand(len(codes)).contiguous()


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and a scale for each row, without reading anything back from the device.

    Args: rows: [M, K], float.

    Returns: int8 [M, K], float32 [M, 1]. The scale of a row that is not finite is not, either.
    """
    codes = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scale = torch.empty(len(rows), 1, device=rows.device)
    for part in _parts(len(rows), _BLOCK // max(1, rows.shape[1]), rows.device):
        unit = (rows[part].abs().amax(1, keepdim=True).float() / INT8.largest).clamp_(min=_LEAST_SCALE)
        scale[part], codes[part] = unit, (rows[part] / unit).round_()
    return codes, scale


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    random = torch.Generator().manual_seed(0)
    # One row is a kernel of its own. It divides in x's type, so what is halfway between two integers may go either way.
    for dtype, count, (rows, columns), group in product(COMPUTED_IN, (1, 17, 300), ((32, 64), (96, 256)), (1, 64)):
        close = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}[dtype]
        x = torch.randn(count, columns, generator=random).to(dtype)
        x[0, 3] *= 20
        codes = torch.randint(-127, 128, (rows, columns), generator=random, dtype=torch.int8).to(device)
        scale = (torch.rand(rows, 1, generator=random) * 0.01 + 1e-3).to(device)
        bias = torch.randn(rows, generator=random).to(device, dtype)
        for added in (None, bias):
            found = kernel.int8_linear(x.to(device), codes, scale, added, group)
            expected = _by_torch(x.to(device), codes, scale, added, group)
            if expected is None or found.dtype != dtype or found.shape != expected.shape:
                return False
            if (found.float() - expected.float()).norm() > close * expected.float().norm():
                return False
        x[-1, 5] = float("inf") if count == 17 else float("nan")
        found = kernel.int8_linear(x.to(device), codes, scale, bias, group)
        if bool(found[-1].isfinite().all()) or not bool(found[:-1].isfinite().all()):
            return False
    return True


def _rows_agree(kernel: ModuleType, device: torch.device) -> bool:
    random = torch.Generator().manual_seed(0)
    # Rows of one block and of several, sizes that are multiples of 16 and not, from any address.
    for dtype, (count, columns), begin in product(COMPUTED_IN, ((3, 32), (2, 1040), (5, 7), (2, 1)), (0, 1)):
        numbers = torch.randn(begin + count * columns, generator=random).to(device, dtype)
        rows = numbers[begin:].view(count, columns)
        (codes, scale), (expected, expected_scale) = kernel.quantize_rows(rows, _LEAST_SCALE), quantize_rows(rows)
        apart = (codes.int() - expected.int()).abs()  # what is halfway between two integers may go either way
        if (
            not torch.allclose(scale, expected_scale, rtol=1e-6, atol=0)
            or apart.max() > 1
            or apart.float().mean() > 0.02
        ):
            return False
        sums = torch.randint(-1 << 18, 1 << 18, (begin + count * columns,), generator=random, dtype=torch.int32)
        sums = sums.to(device)[begin:].view(count, columns)
        unit, bias = torch.rand(columns, generator=random).to(device) + 0.1, rows[0]
        for added in (None, None, bias, bias):
            found = kernel.scale_sums(sums, expected_scale, unit, added, dtype)
            wanted = _scaled(sums, expected_scale, unit, added).to(dtype)
            if found.dtype != dtype or not torch.allclose(found, wanted, rtol=torch.finfo(dtype).eps * 2, atol=1e-2):
                return False
        numbers[-1] = float("inf") if begin else float("nan")
        finite = kernel.quantize_rows(rows, _LEAST_SCALE)[1].isfinite().flatten()
        if bool(finite[-1]) or not bool(finite[:-1].all()):
            return False
    return True


LINEAR = register(Operation("multiplying in INT8", "kitchen", _agrees, KITCHEN))
ROWS = register(Operation("inputs in INT8", "int8", _rows_agree))


@cache
def int8_problem(device: torch.device) -> str | None:
    """Why integers are not multiplied on a device, found by a product of the largest ones; ``None`` if they are."""
    if device.type == "cpu" and not torch.backends.mkldnn.is_available():
        return "torch is built without oneDNN here"
    # Some processors add pairs of products in 16 bits, where these do not fit.
    signs = torch.ones(_ALIGNMENT, 2 * _ALIGNMENT, dtype=torch.int8)
    signs[1::2] = -1
    signs[2::3, ::2] = -1
    codes = signs * 127
    try:
        found = _product(codes[:3].to(device), codes.to(device)).cpu()
    except REFUSALS as error:
        return f"its torch does not multiply integers ({str(error).splitlines()[0]})"
    right = torch.equal(found.double(), codes[:3].double() @ codes.double().t())
    return None if right else "its products of integers are wrong"


def _product(rows: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """rows @ codes.T, int32. torch has no public name for it yet."""
    count = len(rows)
    if rows.device.type != "cpu" and count < _LEAST_ROWS:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, _LEAST_ROWS - count))
    return torch._int_mm(rows, codes.t())[:count]  # pyright: ignore[reportPrivateImportUsage]


def _parts(count: int, each: int, device: torch.device) -> Iterator[slice]:
    """So many rows, on a CPU in parts whose intermediate results stay in the cache, and elsewhere all in one launch."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        yield slice(None)
        return
    each = max(1, each)
    yield from (slice(begin, begin + each) for begin in range(0, count, each))


def _can_look_at(x: torch.Tensor) -> bool:
    """Whether numbers can be read without waiting for a device, or breaking a compiled graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
