"""SSIM and PSNR against scikit-image, the field's reference implementation."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hswq_core.errors import HSWQError
from hswq_core.metrics import compare_images, psnr, ssim


def images(noise: float, size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator), size=size, mode="bilinear")
    a = a.movedim(1, -1)
    return a, (a + noise * torch.randn(a.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_against_scikit_image(noise: float) -> None:
    a, b = images(noise)
    for i in range(2):
        x, y = a[i].double().numpy(), b[i].double().numpy()
        expected = structural_similarity(
            x, y, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(a, b)[i]) == pytest.approx(expected, abs=1e-6)
        assert psnr(a[i], b[i]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.0), rel=1e-6)


def test_identical_images() -> None:
    a, _ = images(0)
    result = compare_images(a, a)
    assert result.ssim == pytest.approx(1.0, abs=1e-12) and result.psnr == math.inf and result.mse == 0
    assert result.side_by_side.shape == (2, 40, 3 * 40 + 4, 3)


def test_images_that_cannot_be_compared() -> None:
    a, b = images(0.1)
    with pytest.raises(HSWQError, match="shape"):
        compare_images(a, b[:1])
    small, other = images(0.1, size=8)
    with pytest.raises(HSWQError, match="11 x 11"):
        compare_images(small, other)


def test_a_batch_takes_the_memory_of_one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(0.1)
    a, b = a.repeat(8, 1, 1, 1), b.repeat(8, 1, 1, 1)
    single = [compare_images(x[None], y[None]) for x, y in zip(a, b, strict=True)]
    widest, convolve, widen = [], torch.nn.functional.conv2d, torch.Tensor.double

    def watched(t: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        widest.append(t.numel())
        return convolve(t, window)

    def watched_double(t: torch.Tensor) -> torch.Tensor:
        widest.append(t.numel())
        return widen(t)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    monkeypatch.setattr(torch.Tensor, "double", watched_double)
    found = compare_images(a, b)
    assert max(widest) == a[0].numel()
    assert found.ssim == pytest.approx(sum(each.ssim for each in single) / len(single), abs=1e-15)
    assert found.mse == pytest.approx(sum(each.mse for each in single) / len(single), rel=1e-15)
    assert torch.equal(found.difference, torch.cat([each.difference for each in single]))
