"""How alike two images are by the metrics whose packages are at hand, beside SSIM and PSNR.

``pip install "comfyui-hswq[proof]"`` brings piq (MS-SSIM, HaarPSI) and lpips. LPIPS needs the weights of AlexNet, which
are taken from the cache of torch.hub if they are there: nothing is ever downloaded.
"""

from __future__ import annotations

import contextlib
import io
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

_MIN_FOR_MS_SSIM = 161
"""Five scales with a window of 11: 10 * 2^4 + 1 pixels."""
_MIN_FOR_HAARPSI, _MIN_FOR_LPIPS = 16, 64
_ALEXNET = "alexnet-owt-7be5be79.pth"


def image_metrics(reference: torch.Tensor, candidate: torch.Tensor) -> dict[str, float]:
    """Means over images [B, H, W, C] in [0, 1]: ``ms_ssim``, ``haarpsi`` (1 for equal ones) and ``lpips`` (0).

    A metric is left out where its package or its weights are missing, or the images are smaller than it can take.
    """
    one, other = (images.float().cpu().movedim(-1, 1)[:, :3].contiguous() for images in (reference, candidate))
    side = min(one.shape[2:])
    found: dict[str, float] = {}
    with torch.inference_mode():
        if (piq := _package("piq")) is not None:
            if side >= _MIN_FOR_MS_SSIM:
                found["ms_ssim"] = float(piq.multi_scale_ssim(one, other, data_range=1.0))
            if side >= _MIN_FOR_HAARPSI:
                found["haarpsi"] = float(piq.haarpsi(one, other, data_range=1.0))
        if side >= _MIN_FOR_LPIPS and (lpips := _lpips()) is not None:
            found["lpips"] = float(lpips(one, other, normalize=True).mean())
    return found


@cache
def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


@cache
def _lpips() -> Any:
    package = _package("lpips")
    if package is None or not (Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET).is_file():
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its own weights are
        return package.LPIPS(net="alex", verbose=False).eval()
