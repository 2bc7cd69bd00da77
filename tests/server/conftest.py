"""Real servers for all server tests; COMFYUI_PATH says which ComfyUI."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import DEFAULT, FP8_STORAGE
from tests.support import workflows as w
from tests.support.odd_folder import fill
from tests.support.probing import MODES, PROBE, UNET, write_kinds
from tests.support.server import ComfyServer


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def probing_once(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with the probe pack, and a folder of its own for the tests of one file."""
    with ComfyServer(comfyui, tmp_path_factory.mktemp("once"), packs=(PROBE,)) as server:
        yield server


@pytest.fixture(scope="module")
def place(probing_once: ComfyServer) -> ComfyServer:
    """A server whose folder has several models that are alike."""
    fill(probing_once)
    return probing_once


@pytest.fixture(scope="session", params=["default", "fp8-storage"], ids=[DEFAULT, FP8_STORAGE])
def probing(
    request: pytest.FixtureRequest, comfyui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with the probe pack and every kind of file; once with ComfyUI told to store diffusion models in FP8."""
    arguments = ("--fp8_e4m3fn-unet",) if request.param == "fp8-storage" else ()
    with ComfyServer(comfyui, tmp_path_factory.mktemp(request.param), arguments, packs=(PROBE,)) as server:
        flow = w.calibrated("cal", session="loader", steps=3, loader="HSWQLoader")
        for mode in MODES:
            flow[f"q_{mode}"] = w.quantize(["calibrate", 1], ["cal_sampler", 0], mode=mode, filename=mode)["quantize"]
        server.run(flow)
        v2 = server.output / "checkpoints/v2.safetensors"
        write_kinds(server, v2)
        unet = {k.removeprefix(UNET): v for k, v in load_file(v2).items() if k.startswith(UNET)}
        save_file(unet, server.base / "models/diffusion_models/v2_unet.safetensors")
        server.get("/object_info")
        yield server
