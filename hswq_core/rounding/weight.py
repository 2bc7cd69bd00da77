"""One weight from its own type to 8-bit codes: the scale, the codes, and what was lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..devices import wide
from ..grids import E4M3, Grid, Scaling
from ..grids.block_scales import search_block_scales
from ..grids.channel_scales import importance_of_columns, search_channel_scales
from ..grids.group_scales import scales_of_columns, search_group_scales
from ..grids.histogram import Histogram, histogram
from ..grids.scale_search import scale_of, search_amax
from .gptq import round_calibrated


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes, scale (float32 [1], or [C_out]; float16 [C_out, groups]; float32 [C_out, blocks]), and what was lost.

    ``error`` is the importance-weighted squared error of these codes, ``plain_error`` that of a plain cast to FP8.
    ``gain`` is the squared error of the layer's output over nearest rounding's, where rounding was calibrated.
    ``group`` is how many columns are rotated together; 1 is none. ``fallback`` is why the layer was rounded to nearest
    where it was to be calibrated; empty where it was not.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    error: float
    plain_error: float
    gain: float | None = None
    group: int = 1
    fallback: str = ""


def quantize_weight(
    weight: torch.Tensor,
    *,
    grid: Grid = E4M3,
    scaling: Scaling = "tensor",
    importance: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    second_moment: torch.Tensor | None = None,
    distribution: Histogram | None = None,
) -> QuantizedWeight:
    """A weight with the best scale for its importance.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], float of 16 bits or more.
        scaling: whether there is a scale, and what each is for.
        importance: [C_in], mean |x| of each input channel; ``None`` weighs all channels alike.
        rows, second_moment: sampled inputs [R, K] and E[x^2] [C_in]; with both, rounding is calibrated.
        distribution: the histogram of this weight and importance, where it is known.

    Errors: ValueError for a weight that holds NaN or infinity; ArithmeticError for rows that cannot be calibrated with.
    """
    distribution = distribution or histogram(weight, importance)
    scale = find_scale(distribution, grid, scaled=scaling == "tensor")
    error = plain_error = squared_error(distribution, torch.ones(1), E4M3)
    if scaling == "channel":
        scale, error = search_channel_scales(weight, importance, grid)
    elif scaling == "group":
        scale, error = search_group_scales(weight, importance, grid)
    elif scaling == "block":
        scale, error = search_block_scales(weight, importance, grid)
    elif scaling == "tensor":
        error = squared_error(distribution, scale, grid)
    if rows is None or second_moment is None:
        return QuantizedWeight(grid.quantize(weight, scale_like(weight, scale)), scale, error, plain_error)
    rounded = round_calibrated(grid, weight, scale, rows, second_moment)
    change = grid.dequantize(rounded.codes, scale_like(weight, scale).to(weight.device)).sub_(weight)
    error = float(wide(change.flatten(1).square_() @ importance_of_columns(weight, importance)).sum())
    gain = rounded.error / rounded.nearest_error if rounded.nearest_error else 1.0
    return QuantizedWeight(rounded.codes, scale, error, plain_error, gain)


def find_scale(distribution: Histogram, grid: Grid, *, scaled: bool) -> torch.Tensor:
    """The stored scale, float32 [1], by search, or 1 without scales. Errors: ValueError for NaN or infinity."""
    if not distribution.is_finite:
        raise ValueError("the weights hold NaN or infinity")
    return scale_of(search_amax(distribution, grid).amax, grid) if scaled else torch.ones(1)


def squared_error(distribution: Histogram, scale: torch.Tensor, grid: Grid) -> float:
    """The weighted sum of squared errors of nearest rounding under a scale."""
    values = distribution.values
    rounded = grid.nearest_values(values / scale).mul_(scale)
    return float((rounded - values).square().double() @ distribution.weights)


def scale_like(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A scale, [1], [C_out] or [C_out, groups or blocks], in a shape that broadcasts to the weight's."""
    if scale.dim() == 2:
        return scales_of_columns(scale, weight[0].numel()).view(weight.shape)
    return scale.view(-1, *[1] * (weight.dim() - 1))
