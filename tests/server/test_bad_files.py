"""Files that must not be opened as if nothing were wrong: one error names file and layer, and the server goes on."""

import pickle
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.server.test_loader import assert_as_in_file, path_of
from tests.support import workflows as w
from tests.support.probing import FP8, UNET, Tensors, loaded, probe
from tests.support.server import ComfyServer, ExecutionError

LAYER = f"{UNET}middle_block.1.proj_in"
OTHER = f"{UNET}out.2"
NORM = f"{UNET}middle_block.1.norm"


def without(*keys: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if k not in keys}


def changed(**values: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {f"{LAYER}.{name}": value for name, value in values.items()}


def unet_alone(tensors: Tensors) -> Tensors:
    return {k: v for k, v in tensors.items() if k.startswith(UNET)}


def lora(_: Tensors) -> Tensors:
    return {f"lora_unet_x.lora_{part}.weight": torch.zeros(4, 4) for part in ("up", "down")}


BAD: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "scale-zero": (changed(scale=torch.zeros(1)), rf"{LAYER}\.scale is not a positive number"),
    "scale-nan": (changed(scale=torch.tensor([float("nan")])), rf"{LAYER}\.scale is not a positive number"),
    "scale-shape": (changed(scale=torch.ones(7)), rf"{LAYER}\.scale has the shape"),
    "scale-missing": (without(f"{LAYER}.scale"), rf"the scale of the quantized layer {LAYER} is missing"),
    "scale-without-fp8": (
        changed(weight=torch.zeros(128, 128).half()),
        rf"{LAYER}\.scale belongs to no quantized weight",
    ),
    "weight-missing": (without(f"{OTHER}.weight", f"{OTHER}.scale"), "out.2 cannot be loaded: its weight is missing"),
    "telling-weight-missing": (without(f"{LAYER}.weight", f"{LAYER}.scale"), "without the layer middle_block"),
    "other-type": (
        lambda t: without(f"{LAYER}.scale")(changed(weight=torch.zeros(128, 128, dtype=torch.uint8))(t)),
        rf"{LAYER} is quantized to uint8",
    ),
    "integers-without-scale": (
        lambda t: without(f"{LAYER}.scale")(changed(weight=torch.zeros(128, 128, dtype=torch.int8))(t)),
        rf"the scale of the quantized layer {LAYER} is missing",
    ),
    "unet-alone": (unet_alone, "HSWQ Diffusion Model Loader"),
    "lora": (lora, "this is a LoRA"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_wrong(probing: ComfyServer, name: str) -> None:
    change, message = BAD[name]
    path = probing.checkpoints / f"bad-{name}.safetensors"
    save_file(change(load_file(path_of(probing, "v2"))), path)
    probing.get("/object_info")
    with pytest.raises(ExecutionError, match=message) as caught:
        probing.run(w.hswq_loaded("bad", path.name))
    assert path.name in str(caught.value)
    probing.run(w.hswq_loaded("good", "v2.safetensors", seed=hash(name) % 2**31, steps=1))


def test_a_pickle(probing: ComfyServer) -> None:
    path = probing.checkpoints / "pickle.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": [1, 2, 3]}))
    probing.get("/object_info")
    with pytest.raises(ExecutionError, match=r"pickle\.ckpt.*not a safetensors file"):
        probing.run(w.hswq_loaded("bad", path.name))


def test_a_norm_with_a_scale_parameter_of_its_own(probing: ComfyServer) -> None:
    """It is no quantization scale: the file opens, and the scale is left to the model, which has no such parameter."""
    tensors = load_file(path_of(probing, "v2"))
    tensors[f"{NORM}.scale"] = torch.zeros(128)
    path = probing.checkpoints / "norm_scale.safetensors"
    save_file(tensors, path)
    probing.get("/object_info")
    assert_as_in_file(probe(probing, "norm_scale", loaded(path.name)), path)


def test_fp8_in_layers_that_have_no_fp8_form(probing: ComfyServer) -> None:
    """Biases and norms are computed in full precision, with their scale where they have one."""
    tensors = load_file(path_of(probing, "v2"))
    for key in (f"{LAYER}.bias", f"{NORM}.bias", f"{NORM}.weight"):
        tensors[key] = tensors[key].to(FP8)
    tensors[f"{NORM}.scale"] = torch.tensor([2.0])
    path = probing.checkpoints / "fp8_norm.safetensors"
    save_file(tensors, path)
    probing.get("/object_info")
    held = probe(probing, "fp8_norm", loaded(path.name))
    norm, layer = NORM.removeprefix(UNET), LAYER.removeprefix(UNET)
    assert torch.equal(held[f"{norm}.computed"], tensors[f"{NORM}.weight"].float() * 2)
    assert torch.equal(held[f"{norm}.bias"].float(), tensors[f"{NORM}.bias"].float())
    assert torch.equal(held[f"{layer}.bias"].float(), tensors[f"{LAYER}.bias"].float())
