"""Files in which every layer has its own bits: written from a measured model, loaded exactly, saved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.decode import decode_layer
from hswq_core.formats.refusal import is_refusal
from tests.support import workflows as w
from tests.support.probing import PROBE, UNET, Tensors, loaded, probe
from tests.support.server import ComfyServer, ExecutionError

SMALL, BEST = "mixed_30.safetensors", "mixed_knee.safetensors"
reports: dict[str, dict[str, Any]] = {}
"""Of the files that were written, by name."""


def exact(path: Path) -> Tensors:
    """The tensors of a file with every quantized weight multiplied out, by the definition of its form."""
    tensors = {k: v for k, v in load_file(path).items() if not is_refusal(k, tuple(v.shape))}
    for key in [k for k in tensors if k.endswith(".weight")]:
        layer, codes = key.removesuffix(".weight"), tensors.get(key)
        if codes is None or codes.is_floating_point():
            continue
        decoder = decode_layer(tensors, tensors.__getitem__, layer, tuple(codes.shape), path)
        tensors[key] = decoder.dequantize(codes)
        for side in decoder.side_keys:
            del tensors[side]
    return tensors


@pytest.fixture(scope="module")
def mixing(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a file at 30 % of the original's bytes, and one at the knee."""
    with ComfyServer(comfyui, tmp_path_factory.mktemp("mixed"), packs=(PROBE,)) as server:
        flow = w.calibrated("cal", session="mixed", steps=3, rows=64)
        for name, options in ((SMALL, {"budget": "35%"}), (BEST, {})):
            written = w.quantize(
                ["calibrate", 1], ["cal_sampler", 0], mode="mixed", rounding="calibrated", filename=name,
                model=["loader", 0], **options,
            )  # fmt: skip
            flow[f"q_{name}"] = written["quantize"]
        ran = server.run(flow)
        for name in (SMALL, BEST):
            reports[name] = json.loads(ran[f"q_{name}"]["report"][0])
            path = server.output / "checkpoints" / name
            save_file(
                {k: v.float() if k.startswith(UNET) else v for k, v in exact(path).items()},
                server.checkpoints / f"exact_{name}",
            )
        server.get("/object_info")
        yield server


@pytest.mark.parametrize("name", [SMALL, BEST])
def test_what_is_loaded_is_what_the_file_defines(mixing: ComfyServer, name: str) -> None:
    path = mixing.output / "checkpoints" / name
    held, file = probe(mixing, f"held_{name}", loaded(name)), load_file(path)
    expected = exact(path)
    kinds = set()
    for key, weight in expected.items():
        if key.startswith(UNET) and key.endswith(".weight") and weight.dim() > 1:
            layer = key.removeprefix(UNET).removesuffix(".weight")
            stored = file[key]
            assert torch.equal(held[f"{layer}.weight"].view(torch.uint8), stored.view(torch.uint8)), layer
            assert torch.equal(held[f"{layer}.computed"], weight.float()), layer
            kinds.add(stored.dtype)
    assert {torch.uint8, torch.int8} <= kinds
    # Nothing is expanded: what the parameters hold is what the file has.
    beside = (".comfy_quant",)
    on_disk = sum(t.nbytes for k, t in file.items() if k.startswith(UNET) and not k.endswith(beside))
    assert int(held["unet.bytes"]) <= 1.02 * on_disk
    stock = {"loader": w.node("CheckpointLoaderSimple", ckpt_name=f"exact_{name}")}
    reference = probe(mixing, f"exact_{name}", stock)["unet.output"]
    assert (held["unet.output"] - reference).norm() <= 1e-3 * reference.norm()


def test_sizes_and_predictions_are_told(mixing: ComfyServer) -> None:
    with CheckpointReader(mixing.checkpoints / w.TINY) as original:
        whole = original.nbytes
    small = mixing.output / "checkpoints" / SMALL
    assert small.stat().st_size <= 0.35 * whole
    with safe_open(small, "pt") as file:
        said = file.metadata()
    assert said["hswq.mode"] == "mixed" and 0 < float(said["hswq.predicted_error"]) < 0.1
    assert len(json.loads(said["hswq.layers_by_form"])) >= 3


@pytest.mark.parametrize("name", [SMALL, BEST])
def test_the_prediction_is_what_the_written_file_does(mixing: ComfyServer, name: str) -> None:
    report = reports[name]
    least, most = report["measured_error_range"]
    assert 0 < least <= report["measured_error"] <= most
    assert 0.7 <= report["predicted_error"] / report["measured_error"] <= 1.4, "on the same inputs"


def test_stock_loaders_refuse_it_by_name(mixing: ComfyServer) -> None:
    flow = w.sampling(["loader", 0], ["loader", 1], ["loader", 2], "stock", steps=1)
    with pytest.raises(ExecutionError, match="hswq_mixed: open this file with HSWQ Loader"):
        mixing.run({"loader": w.node("CheckpointLoaderSimple", ckpt_name=SMALL)} | flow)


def test_it_is_saved_as_it_is(mixing: ComfyServer) -> None:
    flow = loaded(SMALL)
    flow["save"] = w.node(
        "CheckpointSave", model=["loader", 0], clip=["loader", 1], vae=["loader", 2], filename_prefix="saved/mixed"
    )
    mixing.run(flow)
    path = next((mixing.output / "saved").glob("mixed*.safetensors"))
    target = mixing.checkpoints / "saved_mixed.safetensors"
    path.rename(target)
    mixing.get("/object_info")
    again = probe(mixing, "again", loaded(target.name))["unet.output"]
    before = probe(mixing, "before", loaded(SMALL))["unet.output"]
    assert torch.equal(again, before)
    stock = w.sampling(["loader", 0], ["loader", 1], ["loader", 2], "stock_saved", steps=1)
    with pytest.raises(ExecutionError, match=r"hswq_(mixed|int8): open this file with HSWQ Loader"):
        mixing.run({"loader": w.node("CheckpointLoaderSimple", ckpt_name=target.name)} | stock)
