"""The whole path on a device without FP8, float64, random generators and integer products (``tests/lesser_device``).

ComfyUI believes that it runs on a device of Apple's, and another server does the same on the CPU as it is. It shows
what needs no such device: that nothing of these types comes there, and that the numbers are the same. What is peculiar
to a real one, and its speed, it does not show.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hswq_core import QuantizeOptions, load_statistics, quantize
from hswq_core.calibration import Statistics
from tests.support import workflows as w
from tests.support.probing import FP8, PROBE, UNET, loaded, probe
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer

DEVICE = REPOSITORY / "tests" / "lesser_device"
MODES = ("v1", "v2", "comfy", "int8", "comfy-int8")
MIXED = ("mixed", "comfy-mixed")
LORA, NAIVE = "on_devices.safetensors", "naive_e5m2"
STEPS = 2
Servers = tuple[ComfyServer, ComfyServer]


@pytest.fixture(scope="module")
def servers(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One on the CPU and one on the device, computing in one type: each has measured a model and made its files."""
    folders = (tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there"))
    packs: tuple[tuple[Path, ...], ...] = ((PROBE,), (PROBE, DEVICE))
    here, there = (ComfyServer(comfyui, f, ("--force-fp32",), p) for f, p in zip(folders, packs, strict=True))
    with here, there:
        for server in (here, there):
            flow = w.calibrated("cal", session="devices", steps=STEPS, rows=16, loader="HSWQLoader")
            for mode in MODES:
                chosen = {"model": ["loader", 0], "selection": "measured"} if mode == "v2" else {}
                quantized = w.quantize(["calibrate", 1], ["cal_sampler", 0], mode=mode, filename=mode, **chosen)
                flow[f"q_{mode}"] = quantized["quantize"]
            server.run(flow)
        _make_others(here, there)
        yield here, there


def _statistics(server: ComfyServer) -> Statistics:
    return load_statistics(server.output / "hswq/devices.safetensors")


def _make_others(here: ComfyServer, there: ComfyServer) -> None:
    """For both: files in mixed bits, one in plain FP8 with all that belongs to it, and a LoRA."""
    statistics = _statistics(here)
    for mode in MIXED:
        options = QuantizeOptions(mode=mode, budget="72%")
        for number, purpose in enumerate(options.purposes):
            impacts = {name: 10.0 ** -(3 + number + place % 4) for place, name in enumerate(statistics.layers)}
            statistics = statistics.with_impacts(impacts, str(purpose))
        quantize(TINY_CHECKPOINT, here.checkpoints / f"{mode}.safetensors", statistics, options)
    source, generator, lora = load_file(TINY_CHECKPOINT), torch.Generator().manual_seed(0), {}
    naive = {k: t.to(torch.float8_e5m2) if t.dtype == torch.float16 else t for k, t in source.items()}
    save_file(naive, here.checkpoints / f"{NAIVE}.safetensors")
    for key in [k for k, t in source.items() if k.startswith(UNET) and k.endswith(".weight") and t.dim() == 2][::3]:
        name = "lora_unet_" + key.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
        lora[f"{name}.lora_up.weight"] = torch.randn(len(source[key]), 2, generator=generator) * 0.02
        lora[f"{name}.lora_down.weight"] = torch.randn(2, source[key].shape[1], generator=generator) * 0.02
    for server in (here, there):
        (server.base / "models/loras").mkdir()
        save_file(lora, server.base / "models/loras" / LORA)
        for name in (*MIXED, NAIVE):
            if server is there:
                shutil.copy(here.checkpoints / f"{name}.safetensors", there.checkpoints)
        server.get("/object_info")


def image_of(server: ComfyServer, flow: w.Workflow) -> np.ndarray:
    """The pixels, from 0 to 1, of the workflow's image."""
    return pixels(server, flow, server.run(flow))


def pixels(server: ComfyServer, flow: w.Workflow, done: dict[str, Any]) -> np.ndarray:
    node = next(name for name, each in flow.items() if each["class_type"] == "SaveImage")
    (path,) = server.images(done, node)
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def distance(servers: Servers, flow: w.Workflow) -> float:
    """The mean difference of both servers' pixels."""
    here, there = (image_of(server, flow) for server in servers)
    assert here.std() > 0.05, "the image shows nothing"
    return float(np.abs(here - there).mean())


def test_it_runs_there_and_measures_by_gradients(servers: Servers) -> None:
    """The device has no QR decomposition, either."""
    here, there = servers
    assert "weights are rounded on the CPU, as mps" in there.log and "as mps" not in here.log
    assert "one layer after another" not in there.log


def test_statistics_agree(servers: Servers) -> None:
    here, there = (_statistics(server) for server in servers)
    assert here.layers.keys() == there.layers.keys()
    for name, layer in here.layers.items():
        other = there.layers[name]
        for found, expected in (
            (other.importance, layer.importance),
            (other.second_moment, layer.second_moment),
            (other.output_sums, layer.output_sums),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().mean()), msg=name)


@pytest.mark.parametrize("mode", [*MODES, *MIXED, NAIVE])
def test_images_are_those_of_the_cpu(servers: Servers, mode: str) -> None:
    assert distance(servers, w.hswq_loaded(mode, f"{mode}.safetensors", steps=STEPS)) <= 1e-3


@pytest.mark.parametrize("mode", ["v2", "int8"])
def test_fast_stays_exact_and_says_why(servers: Servers, mode: str) -> None:
    here, there = servers
    flow = w.hswq_loaded("fast", f"{mode}.safetensors", steps=STEPS)
    exact = image_of(here, flow)
    flow["fast_loader"]["inputs"]["compute"] = "fast"
    done = there.run(flow)
    assert float(np.abs(pixels(there, flow, done) - exact).mean()) <= 1e-3
    computing = done["fast_loader"]["hswq_loaded"][0]["computing"]
    reason = {"v2": "in FP8, which this device does not multiply", "int8": "without integer products"}[mode]
    assert computing["fast"] == 0 and computing["exact"][reason] > 50


def test_a_lora_is_the_same_and_leaves_no_trace(servers: Servers) -> None:
    plain = w.hswq_loaded("plain", "v2.safetensors", steps=STEPS)
    lora = w.hswq_loaded("lora", "v2.safetensors", steps=STEPS)
    lora["lora"] = w.node("LoraLoaderModelOnly", model=["lora_loader", 0], lora_name=LORA, strength_model=1.0)
    lora["lora_sampler"]["inputs"]["model"] = ["lora", 0]
    before = image_of(servers[1], plain)
    assert distance(servers, lora) <= 1e-3
    servers[1].unload()
    copied = w.hswq_loaded("copied", "v2.safetensors", steps=STEPS)
    copied["copy"] = w.node("ProbeCopied", model=["copied_loader", 0])
    copied["copied_sampler"]["inputs"]["model"] = ["copy", 0]
    assert np.array_equal(image_of(servers[1], copied), before)
    w.sample_anew(plain, "plain", 1)
    assert np.array_equal(image_of(servers[1], plain), before)
    w.sample_anew(lora, "lora", 2)
    assert distance(servers, lora) <= 1e-3


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy-mixed", NAIVE])
def test_codes_are_held_as_bytes_and_saved_as_they_were(servers: Servers, mode: str) -> None:
    here, there = servers
    name = f"{mode}.safetensors"
    if mode in MODES:  # the same file for both
        shutil.copy(here.output / "checkpoints" / name, there.output / "checkpoints" / name)
    held, ordinary = (probe(server, f"held_{mode}", loaded(name)) for server in (there, here))
    codes = 0
    for key, expected in ordinary.items():
        if key.endswith(".computed"):
            assert torch.equal(held[key], expected), key
        elif expected.dtype in (FP8, torch.float8_e5m2):
            assert torch.equal(held[key], expected.view(torch.uint8)), key
            codes += 1
        elif key.endswith(".weight"):
            assert held[key].dtype == expected.dtype, key
    assert codes > 50 or mode == "comfy-mixed"
    flow = loaded(name) | {"saved": w.node("ModelSave", model=["loader", 0], filename_prefix=f"saved/{mode}")}
    there.run(flow)
    here.run(flow)
    saved, expected = (load_file(next((s.output / "saved").glob(f"{mode}_*"))) for s in (there, here))
    assert saved.keys() == expected.keys() and any(t.dtype in (FP8, torch.float8_e5m2) for t in saved.values())
    for key, tensor in expected.items():
        assert saved[key].dtype == tensor.dtype and torch.equal(
            saved[key].view(torch.uint8) if tensor.element_size() == 1 else saved[key],
            tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor,
        ), key
