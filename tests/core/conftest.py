"""A small checkpoint laid out like SDXL's, and statistics that belong to it; and the devices to compute on."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from hswq_core.calibration import DualMonitor, Statistics, save_statistics
from tests.core.small_nets import fingerprint

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    # Triton's own functions run in its interpreter only if it was imported with this; whatever imports it first.
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        importlib.import_module("triton.language")

DEVICES = {
    "cpu": lambda: True,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "xpu": torch.xpu.is_available,
}
PREFIX = "model.diffusion_model."
WIDTH = 64


@dataclass
class Example:
    path: Path
    tensors: dict[str, torch.Tensor]
    statistics: Statistics
    statistics_path: Path


class Unet(torch.nn.Module):
    """Ten Linear layers whose outputs vary more from one to the next, a convolution, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH) for _ in range(10)])
        self.conv = torch.nn.Conv2d(4, 8, 3)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.half()

    def forward(self, x: torch.Tensor) -> None:
        for i, block in enumerate(self.blocks):
            block(x * (i + 1))
        self.conv(x.view(-1, 4, 8, 8))
        self.norm(x)


def make_example(folder: Path, seed: int = 0) -> Example:
    torch.manual_seed(seed)
    unet = Unet()
    with torch.no_grad(), DualMonitor(unet, 128, expected_calls=3) as monitor:
        for _ in range(3):
            unet(torch.randn(64, WIDTH).half())
    statistics = Statistics(monitor.statistics().layers, runs=3, samples=12, steps=75, fingerprint=fingerprint(unet))
    tensors = {PREFIX + k: v.detach() for k, v in unet.state_dict().items()}
    tensors["conditioner.embedders.0.weight"] = torch.randn(7, 5).half()
    tensors["first_stage_model.bytes"] = torch.arange(9, dtype=torch.uint8)
    tensors["alphas"] = torch.randn(11, dtype=torch.float64)
    path, statistics_path = folder / f"model{seed}.safetensors", folder / f"stats{seed}.safetensors"
    save_file(tensors, path, metadata={"title": "example"})
    save_statistics(statistics, statistics_path)
    return Example(path, tensors, statistics, statistics_path)


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return make_example(tmp_path)


@pytest.fixture(params=[name for name, is_there in DEVICES.items() if is_there()])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and every other kind of device that this machine has, its first."""
    return torch.device(request.param, 0) if request.param != "cpu" else torch.device("cpu")
