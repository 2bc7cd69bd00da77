"""Sequential rounding, a strip of output channels to a program: one launch instead of five for every column."""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..grids import Grid
from .launch import Kernel, is_aligned

_COLUMNS, _STRIP = tl.constexpr(32), tl.constexpr(32)
_ROUNDS_TO_WHOLE = tl.constexpr(1.5 * 2.0**23)


def round_strips(
    grid: Grid,
    target: torch.Tensor,
    coupling: torch.Tensor,
    values: torch.Tensor | None,
    unit: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``rounding.sequential.round_rows``."""
    target, coupling = target.contiguous(), coupling.contiguous()
    own = values is None
    values = target if values is None else values.contiguous()
    is_scaled = unit is not None
    unit = target if unit is None else unit.contiguous()
    rounded, change = torch.empty_like(target), torch.empty_like(target)
    rows, columns = target.shape
    kind = (target.device, is_aligned(target, values, coupling, unit))
    programs = triton.cdiv(columns, _STRIP.value)
    spacing = 2.0**-grid.mantissa_bits
    _round_strips.launch(
        programs, kind, target, values, coupling, unit, rounded, change, rows, columns, int(own), int(is_scaled),
        grid.largest, grid.least_normal, spacing,
    )  # fmt: skip
    return rounded, change


@triton.jit
def _nearest(value, largest, least_normal, spacing):
    """The nearest value of the grid, ties to even. Triton converts e4m3 only for GPUs that compute in it."""
    value = tl.minimum(tl.maximum(value, -largest), largest)
    power = (value.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    step = tl.maximum(power, least_normal) * spacing
    # Beyond 2^23 floats are whole numbers, so that an addition rounds.
    return ((value / step + _ROUNDS_TO_WHOLE) - _ROUNDS_TO_WHOLE) * step


@triton.jit(do_not_specialize=["rows", "columns", "own", "is_scaled", "largest", "least_normal", "spacing"])
def _round_strip(
    target, values, coupling, unit, rounded, change, rows, columns, own, is_scaled, largest, least_normal, spacing
):
    row = tl.arange(0, _COLUMNS)
    column = tl.program_id(0) * _STRIP + tl.arange(0, _STRIP)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = row[:, None] * columns + column[None, :]
    wanted = tl.load(target + at, mask=inside, other=0.0)
    before = tl.load(values + at, mask=inside, other=0.0)
    steps = tl.where(is_scaled != 0, tl.load(unit + at, mask=inside, other=1.0), 1.0)
    nearest = tl.zeros([_COLUMNS, _STRIP], tl.float32)
    taken = tl.zeros([_COLUMNS, _STRIP], tl.float32)
    for j in range(rows):
        here = (row == j)[:, None]
        this = tl.sum(tl.where(here, wanted, 0.0), 0)
        step = tl.sum(tl.where(here, steps, 0.0), 0)
        code = _nearest(tl.div_rn(this, step), largest, least_normal, spacing) * step
        base = tl.where(own != 0, this, tl.sum(tl.where(here, before, 0.0), 0))
        left = base - code
        factor = tl.load(coupling + j * rows + row, mask=(row > j) & (row < rows), other=0.0)
        wanted += factor[:, None] * left[None, :]
        nearest = tl.where(here, code[None, :], nearest)
        taken = tl.where(here, left[None, :], taken)
    tl.store(rounded + at, nearest, mask=inside)
    tl.store(change + at, taken, mask=inside)


_round_strips = Kernel(_round_strip)
