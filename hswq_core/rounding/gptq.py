"""Calibrated rounding: the columns that are still to be rounded cancel the error of those that are.

The error that counts is that of the layer's output, |X (W - Q)^T|^2 over sampled input rows X. Columns are rounded
one after the other. Before the remaining columns are rounded, they move to where they cancel the output error so
far (error feedback: Frantar et al., GPTQ, 2022).

GPTQ keeps the K x K second moments of the inputs, which a convolution with K = 23,040 taps cannot afford. Rows are
few (R of them), so the same answer is computed from R x R matrices: with H = X^T X + d I, what the remaining columns
U should become is W_U + X_U^T (d I + X_U X_U^T)^-1 E, where E [R, C_out] is the output error so far. The result is
then refined code by code (``coordinate_descent.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..devices import wide
from ..grids import Grid
from ..grids.group_scales import scales_of_columns
from ..sums import WideSum
from .coordinate_descent import refine
from .sequential import COLUMNS, round_rows

PASSES = 3
_LEAST_DAMPING, _CAUTION = 0.01, 2.0
_BLOCK = 512


@dataclass(frozen=True)
class Rounded:
    """Codes, and the squared error of the layer's output for them and for nearest rounding."""

    codes: torch.Tensor
    error: float
    nearest_error: float


def round_calibrated(
    grid: Grid, weight: torch.Tensor, scale: torch.Tensor, rows: torch.Tensor, second_moment: torch.Tensor
) -> Rounded:
    """Codes whose layer output is closer to the original's than nearest rounding's, or nearest rounding's.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        scale: float32 [1], or [C_out]; [C_out, groups] of columns.
        rows: [R, K] sampled inputs, K = C_in * kH * kW.
        second_moment: [C_in], the exact E[x^2]; the sample's columns are scaled to it.

    Returns:
        Codes in the shape of ``weight``, and the errors measured by the same rows and damping.

    Errors: ArithmeticError for inputs whose moments cannot be computed with.
    """
    device = weight.device
    columns = weight.flatten(1).t().float()  # [K, C_out]: one column of the layer is one contiguous row here
    exact = second_moment.float().to(device).repeat_interleave(len(columns) // len(second_moment))
    x = _scaled_rows(rows.to(device).float(), exact)
    damp, unit = damping(x) * float(exact.mean()), _units(scale.to(device), len(columns))
    if not math.isfinite(damp):
        raise ArithmeticError("the moments of the inputs are too large for float32")
    if not damp > 0:  # no input was ever anything but zero
        return Rounded(_as_weight(grid.quantize(columns, unit), weight), 0.0, 0.0)
    if len(x) > x.shape[1]:
        # More rows than columns: the triangular factor has the same second moments in K rows.
        x = torch.linalg.qr(x, mode="r").R
    # The columns that matter most go first, while the most others are left to cancel their error.
    order = exact.argsort(descending=True, stable=True)
    columns, x, unit = columns[order], x[:, order], _part(unit, order)
    codes, residual = _round_columns(grid, columns, x, unit, damp)
    codes, residual = refine(grid, columns, codes, x, residual, unit, damp, PASSES)
    nearest = grid.quantize(columns, unit)
    change, plain = (columns - grid.dequantize(c, unit) for c in (codes, nearest))
    error = float(residual.square().sum() + damp * change.square().sum())
    nearest_error = float((x @ plain).square().sum() + damp * plain.square().sum())
    if not math.isfinite(nearest_error):
        raise ArithmeticError("the errors of the outputs are too large for float32")
    if not error < nearest_error:
        codes, error = nearest, nearest_error
    # Back from columns in the order of importance to the weight's own.
    bits = _bits(codes)
    restored = torch.empty_like(bits)
    restored[order] = bits
    return Rounded(_as_weight(restored.view(codes.dtype), weight), error, nearest_error)


def _units(scale: torch.Tensor, columns: int) -> torch.Tensor:
    """What a code stands for: [1], [C_out], or [K, C_out] where columns have scales of their own."""
    return scales_of_columns(scale, columns).t().contiguous() if scale.dim() == 2 else scale


def _part(unit: torch.Tensor, columns: slice | torch.Tensor) -> torch.Tensor:
    """The units of some columns."""
    return unit[columns] if unit.dim() == 2 else unit


def _as_weight(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Codes [K, C_out] in the weight's shape."""
    return _bits(codes).t().contiguous().view(codes.dtype).view(weight.shape)


def _bits(codes: torch.Tensor) -> torch.Tensor:
    """Codes as a type that torch moves about: of FP8 it does not on every device."""
    return codes.view(torch.uint8) if codes.element_size() == 1 else codes


def _scaled_rows(rows: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """X with X^T X = E[x x^T], as far as the sample knows, and its diagonal as all inputs together have it."""
    sampled = rows.square().mean(0)
    gain = torch.where(sampled > 0, exact / sampled, 0).sqrt_()
    return rows * (gain / len(rows) ** 0.5)


def damping(x: torch.Tensor) -> float:
    """What to add to the diagonal of X^T X, as a share of its mean, because rows are few.

    The shrinkage towards the identity that has the least expected error (Ledoit and Wolf, A well-conditioned
    estimator for large-dimensional covariance matrices, 2004), from the rows' own inner products. Twice that: it is
    the best for the moments themselves, while rounding exploits the directions that they have too little of.
    """
    products = x @ x.t() if len(x) <= x.shape[1] else x.t() @ x
    squares = float(wide(products).square().sum())
    noise = float(wide(x).square().sum(1).square().sum()) - squares / len(x)
    signal = squares - float(wide(x).square().sum()) ** 2 / x.shape[1]
    share = min(0.9, max(0.0, noise / signal)) if signal > 0 else 0.9
    return max(_LEAST_DAMPING, _CAUTION * share / (1 - share))


def _round_columns(
    grid: Grid, columns: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, damp: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [K, C_out] of columns [K, C_out], block by block, and the output error X (W - Q) [R, C_out]."""
    blocks = list(range(0, len(columns), _BLOCK))
    # Products of a block's rows are added and taken away exactly, so that nothing is left when all are gone.
    gram = WideSum((len(x), len(x)), x.device)
    for start in blocks:
        part = x[:, start : start + _BLOCK]
        gram.add(part @ part.t())
    factor = _damped_factor(gram, damp)
    residual = torch.zeros(len(x), columns.shape[1], device=x.device)
    codes = []
    for start in blocks:
        part, original = x[:, start : start + _BLOCK], columns[start : start + _BLOCK]
        target = original + part.t() @ torch.cholesky_solve(residual, factor)
        gram.add((part @ part.t()).neg_())
        factor = _damped_factor(gram, damp)
        # What the block's errors cost, given that the columns after it will cancel what they can.
        half = torch.linalg.solve_triangular(factor, part, upper=False)
        cost = half.t() @ half
        cost.diagonal().add_(1.0)
        unit = _part(scale, slice(start, start + _BLOCK))
        rounded = _round_block(grid, target, cost, unit)
        codes.append(rounded)
        residual += part @ (original - grid.dequantize(rounded, unit))
    return torch.cat(codes), residual


def _damped_factor(gram: WideSum, damp: float) -> torch.Tensor:
    damped = gram.float()
    damped.diagonal().add_(damp)
    return _cholesky(damped)


def _cholesky(matrix: torch.Tensor, *, upper: bool = False) -> torch.Tensor:
    """The factor of a positive definite matrix; ArithmeticError for another one."""
    factor, failed = torch.linalg.cholesky_ex(matrix, upper=upper)
    if failed:
        raise ArithmeticError("the moments of the inputs are not positive definite")
    return factor


def _round_block(grid: Grid, target: torch.Tensor, cost: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes of a block's columns [B, C_out], each one's error passed on to the rest of the block as its cost says."""
    feedback = _cholesky(torch.cholesky_inverse(_cholesky(cost)), upper=True)
    feedback = feedback / feedback.diagonal()[:, None]
    unit = scale if scale.dim() == 2 else None
    target = target.clone() if unit is not None else target / scale  # in units of the grid where one scale serves all
    codes = torch.empty_like(target, dtype=grid.held_as(target.device))
    for start in range(0, len(target), COLUMNS):
        end = min(start + COLUMNS, len(target))
        here = None if unit is None else unit[start:end]
        rounded, errors = round_rows(grid, target[start:end], -feedback[start:end, start:end], unit=here)
        codes[start:end] = rounded if here is None else grid.nearest(rounded / here)
        target[end:].addmm_(feedback[start:end, end:].t(), errors, alpha=-1)
    return codes
