"""What the doctor says of opening a file is what happens: with stock loaders and with HSWQ Loader, for every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hswq_core import quantize, repair
from hswq_core.formats.comfy_mixed import NVFP4_FORM
from hswq_core.metrics import ssim
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers
from tests.support import workflows as w
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError

Change = Callable[[str, torch.Tensor], files.Tensors]
STOCK, OURS = "CheckpointLoaderSimple", "HSWQLoader"
FP8_SCALED = {"format": "float8_e4m3fn"}
INT8 = {"format": "int8_tensorwise"}
NOISE = 0.5
"""SSIM with the original's image. What is not noise is above, however coarse, and noise far below."""


def kept(name: str, weight: torch.Tensor) -> files.Tensors:
    return {f"{name}.weight": weight}


def in_blocks(change: Change, columns: int = 16) -> Change:
    """Packed weights have other shapes, and ComfyUI tells models by those of some layers: these stay."""

    def chosen(name: str, weight: torch.Tensor) -> files.Tensors:
        fits = NVFP4_FORM.holds(name.removeprefix(files.UNET), tuple(weight.shape)) and not weight.shape[1] % columns
        return change(name, weight) if fits else kept(name, weight)

    return chosen


def column(change: Change) -> Change:
    """Scales by channel as ComfyUI takes them, [C_out]."""
    return lambda name, weight: {
        key: value.flatten() if key.endswith("_scale") else value for key, value in change(name, weight).items()
    }


def blockwise(name: str, weight: torch.Tensor) -> files.Tensors:
    """Blocks that all have the same scale, which is not one."""
    scale = files.largest(weight) / 448
    found = files.blockwise(name, weight / scale)
    return found | {f"{name}.weight_scale": found[f"{name}.weight_scale"] * scale}


def header() -> dict[str, str]:
    layers = files.unet_layers(load_file(TINY_CHECKPOINT))
    said = {"format_version": "1.0", "layers": {name.removeprefix(files.UNET): FP8_SCALED for name in layers}}
    return {"_quantization_metadata": json.dumps(said)}


@dataclass(frozen=True)
class Kind:
    """Attributes: change: of a layer. more: tensors beside all of them. mode: HSWQ's own quantizer instead."""

    change: Change = kept
    more: files.Tensors | None = None
    header: bool = False
    convolutions: bool = False
    mode: str = ""
    scales: str = "tensor"

    def write(self, path: Path) -> None:
        if self.mode:
            quantize(TINY_CHECKPOINT, path, mode=self.mode, keep_ratio=0.0, scales=self.scales)
            return
        model = load_file(TINY_CHECKPOINT)
        tensors = files.each(self.change, convolutions=self.convolutions, model=model) | (self.more or {})
        files.save(path.parent, tensors, header() if self.header else None, name=path.stem)


KINDS = {
    "original": Kind(),
    "v1": Kind(mode="v1"),
    "plain_fp8": Kind(files.plain),
    "e5m2": Kind(files.e5m2, convolutions=True),
    "v2": Kind(mode="v2"),
    "v2_by_channel": Kind(mode="v2", scales="channel"),
    "scaled_fp8": Kind(files.scaled(".scale_weight"), files.MARK),
    "scaled_fp8_rounding_inputs": Kind(files.scaled(".scale_weight"), files.FAST_MARK),
    "scaled_fp8_with_convolutions": Kind(files.scaled(".scale_weight"), files.MARK, convolutions=True),
    "scaled_fp8_without_mark": Kind(files.scaled(".scale_weight")),
    "weight_scale_alone": Kind(files.scaled(".weight_scale")),
    "comfy_by_header": Kind(files.scaled(".weight_scale"), header=True),
    "comfy": Kind(mode="comfy"),
    "comfy_rounding_inputs": Kind(files.scaled(".weight_scale", **FP8_SCALED)),
    "comfy_by_channel": Kind(files.scaled(".weight_scale", by_row=True, **FP8_SCALED)),
    "comfy_by_channel_flat": Kind(column(files.scaled(".weight_scale", by_row=True, **FP8_SCALED))),
    "mxfp8": Kind(in_blocks(files.mxfp8, 32)),
    "nvfp4": Kind(in_blocks(files.nvfp4)),
    "nvfp4_rounding_inputs": Kind(in_blocks(files.nvfp4_fast)),
    "nvfp4_everywhere": Kind(files.nvfp4),
    "comfy_int8": Kind(mode="comfy-int8"),
    "comfy_int8_rotated": Kind(
        in_blocks(files.integers(INT8 | {"convrot": True, "convrot_groupsize": 64}, 64), 64)
    ),
    "w4a4": Kind(in_blocks(files.w4a4, 64)),
    "w4a8": Kind(in_blocks(files.w4a8, 64)),
    "int8": Kind(mode="int8"),
    "hswq_int4": Kind(in_blocks(files.hswq_int4, 64), files.REFUSING),
    "bnb_nf4": Kind(in_blocks(peers.bnb_nf4)),
    "bnb_int8": Kind(peers.bnb_int8),
    "svdquant": Kind(in_blocks(peers.svdquant(False), 64)),
    "torchao": Kind(peers.torchao),
    "quanto": Kind(peers.quanto),
    "blockwise": Kind(in_blocks(blockwise)),
}  # fmt: skip


def damaged(folder: Path) -> dict[str, files.Tensors]:
    """Files that people post about, by name."""
    v2, comfy = (load_file(folder / f"{name}.safetensors") for name in ("v2", "comfy"))
    scales = [key for key in comfy if key.endswith(".weight_scale")]
    return {
        "stripped": {key: value for key, value in v2.items() if not key.endswith(".scale")},
        "inverted": comfy | {key: 1 / comfy[key] for key in scales},
        "without_a_scale": {key: value for key, value in comfy.items() if key != scales[0]},
    }


@dataclass
class Place:
    """Attributes: images: of what opened, by the names of file and loader. said: what the doctor says, by file."""

    server: ComfyServer
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    reference: torch.Tensor | None = None

    def doctor(self, name: str, **inputs: Any) -> dict[str, Any]:
        """What the node says, as JSON."""
        if name not in self.said or inputs:
            flow = {"doctor": w.node("HSWQDoctor", file=f"{name}.safetensors", **inputs)}
            flow["shown"] = w.node("PreviewAny", source=["doctor", 1])
            self.said[name] = json.loads(self.server.run(flow)["shown"]["text"][0])
        return self.said[name]

    def image(self, name: str, loader: str) -> torch.Tensor:
        """[1, H, W, 3], of two steps. Errors: ExecutionError where the file is refused, or fails."""
        prefix = f"{name}_{loader}"
        make = w.plain if loader == STOCK else w.hswq_loaded
        flow = make(prefix, f"{name}.safetensors", steps=2, cfg=1.0)
        made = Image.open(self.server.images(self.server.run(flow), f"{prefix}_image")[0]).convert("RGB")
        return torch.from_numpy(np.array(made)[None]).float() / 255

    def happens(self, name: str, loader: str) -> str:
        """The doctor's word for what happens when a file is opened and sampled with."""
        try:
            made = self.image(name, loader)
        except ExecutionError as error:
            at = error.details.get("node_type") if isinstance(error.details, dict) else None
            return "refuses" if at in (STOCK, OURS) else "fails"
        if self.reference is None:
            self.reference = self.image("original", STOCK)
        alike = float(ssim(made, self.reference)[0])
        print(f"{name}, {loader}: SSIM {alike:.3f}")
        return "opens" if alike > NOISE else "noise"


DAMAGED = ("stripped", "inverted", "without_a_scale")


@pytest.fixture(scope="module")
def place(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ComfyServer(comfyui, tmp_path_factory.mktemp("doctor")) as server:
        for name, kind in KINDS.items():
            kind.write(server.checkpoints / f"{name}.safetensors")
        for name, tensors in damaged(server.checkpoints).items():
            files.save(server.checkpoints, tensors, name=name)
        server.get("/object_info")
        yield Place(server)


@pytest.mark.parametrize("name", [*KINDS, *DAMAGED])
def test_stock_loaders_do_what_the_doctor_says(place: Place, name: str) -> None:
    assert place.doctor(name)["opening"]["outcome"] == place.happens(name, STOCK)


@pytest.mark.parametrize("name", [*KINDS, *DAMAGED])
def test_hswq_loader_does_what_the_doctor_says(place: Place, name: str) -> None:
    said = next(each for each in place.doctor(name)["openings"] if each["loader"] == "HSWQ Loader")
    assert said["outcome"] == place.happens(name, OURS)


@pytest.mark.parametrize(
    ("name", "undamaged"), [("stripped", "v2"), ("inverted", "comfy"), ("without_a_scale", "comfy")]
)
def test_what_is_mended_draws_as_it_did(place: Place, name: str, undamaged: str) -> None:
    folder = place.server.checkpoints
    repair(folder / f"{name}.safetensors", TINY_CHECKPOINT, folder / f"{name}_mended.safetensors")
    place.server.get("/object_info")
    assert not [finding for finding in place.doctor(f"{name}_mended")["findings"] if finding["is_error"]]
    assert ssim(place.image(f"{name}_mended", OURS), place.image(undamaged, OURS))[0] > 0.98


def test_what_this_comfyui_says_of_itself(place: Place) -> None:
    found = place.doctor("v2")
    said = found["comfyui"]
    assert found["machine"]["name"] == said["device"]["name"] == "this CPU" and said["fast"] == []
    assert "float8_e4m3fn" in said["formats"] and said["version"] in place.server.log
    assert any(opening["loader"] == said["loads_as"] for opening in found["openings"])
    assert "torch" in " ".join(said["kernels"])


def test_with_the_original_and_a_path(place: Place) -> None:
    path = str(place.server.checkpoints / "v2.safetensors")
    inputs = {"file": "original.safetensors", "path": path, "original": w.TINY}
    flow = {"doctor": w.node("HSWQDoctor", **inputs), "shown": w.node("PreviewAny", source=["doctor", 1])}
    done = place.server.run(flow)
    compared = json.loads(done["shown"]["text"][0])["comparison"]
    assert len(compared["layers"]) == 175 and max(each["weight"] for each in compared["layers"].values()) < 1e-3
    told = done["doctor"]["hswq_doctor"][0]
    assert told["text"] == done["doctor"]["text"][0] and told["verdict"] in told["text"]
    assert "opened by HSWQ Loader" in told["verdict"] and "its own loaders: noise" in told["text"]
    assert ["noise" in warning for warning in told["warnings"]] == [True]  # of this ComfyUI's own loaders
    with pytest.raises(ExecutionError, match="in none of ComfyUI's folders"):
        place.server.run({"doctor": w.node("HSWQDoctor", **inputs | {"path": "/etc/passwd"})})
