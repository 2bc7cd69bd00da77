"""Image similarity: SSIM, PSNR, and mean squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .devices import wide
from .errors import HSWQError

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
_AMPLIFICATION = 8


def mse(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared error in float64, one image of a batch [B, ...] in memory at a time."""
    if not a.dim() or not len(a) or a.shape != b.shape:
        return float((wide(a) - wide(b)).square().mean())
    return math.fsum(float((wide(x) - wide(y)).square().mean()) for x, y in zip(a, b, strict=True)) / len(a)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]; infinite for equal images."""
    error = mse(a, b)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each pair of images: float64 [B]. One pair is in memory at a time.

    Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, each colour channel for itself, mean over
    the positions where the whole window fits (Wang et al., Image Quality Assessment, 2004).

    Args:
        a, b: [B, H, W, C] in [0, 1].

    Errors: HSWQError for shapes that differ or are smaller than the window.
    """
    if a.shape != b.shape:
        raise HSWQError(
            f"the images differ in shape: {list(a.shape)} and {list(b.shape)}",
            remedy="Compare images of one size and number",
        )
    if min(a.shape[1:3]) < _WINDOW:
        raise HSWQError(f"SSIM needs images of at least {_WINDOW} x {_WINDOW} pixels", remedy="Make larger images")
    each = [_ssim_of_pair(x[None], y[None]) for x, y in zip(a, b, strict=True)]
    return torch.cat(each) if each else torch.empty(0, dtype=torch.float64)


def _ssim_of_pair(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    channels = a.shape[-1]
    x, y = (wide(t).movedim(-1, 1).reshape(-1, 1, *t.shape[1:3]) for t in (a, b))
    line = torch.arange(_WINDOW, dtype=torch.float64, device=x.device) - _WINDOW // 2
    line = torch.exp(-(line**2) / (2 * _SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def local_mean(t: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(t, window)

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = local_mean(x * x) - mean_x**2
    var_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean(dim=(1, 2, 3)).view(-1, channels).mean(dim=1)


@dataclass(frozen=True)
class ImageComparison:
    """Means over a batch of image pairs; the SSIM of ``each``; their amplified ``difference`` [B, H, W, C]; and all of
    them side by side.
    """

    ssim: float
    each: tuple[float, ...]
    psnr: float
    mse: float
    images: int
    difference: torch.Tensor
    side_by_side: torch.Tensor

    @property
    def worst_ssim(self) -> float:
        return min(self.each)

    def figures(self) -> dict[str, object]:
        """All but the images, for JSON, which has no infinity."""
        return {
            "ssim": self.ssim,
            "worst_ssim": self.worst_ssim,
            "psnr": None if math.isinf(self.psnr) else self.psnr,
            "mse": self.mse,
            "identical": self.mse == 0,
            "images": self.images,
        }


def compare_images(reference: torch.Tensor, candidate: torch.Tensor) -> ImageComparison:
    """Compare images [B, H, W, C] in [0, 1]. Errors: HSWQError when their shapes differ or are too small."""
    similarity = ssim(reference, candidate)
    difference = (reference - candidate).abs_().mul_(_AMPLIFICATION).clamp_(0, 1)
    gap = torch.ones_like(reference[:, :, : max(2, reference.shape[2] // 64)])
    return ImageComparison(
        ssim=float(similarity.mean()),
        each=tuple(similarity.tolist()),
        psnr=psnr(reference, candidate),
        mse=mse(reference, candidate),
        images=reference.shape[0],
        difference=difference,
        side_by_side=torch.cat([reference, gap, candidate, gap, difference], dim=2),
    )
