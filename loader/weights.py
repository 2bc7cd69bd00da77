"""The weights of a MODEL as they were loaded, or with its patches, whatever is in the module at the moment."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.lora
import comfy.model_management
import torch

from ..hswq_core.calibration import quantizable_layers
from ..hswq_core.files.dtypes import tensor_bytes
from .quantized_tensor import is_quantized


@contextlib.contextmanager
def without_injections(model: Any) -> Iterator[None]:
    """Meanwhile the module is a MODEL's own, without what another patcher of it has injected and not taken out yet."""
    with contextlib.ExitStack() as ejected:
        for loaded in comfy.model_management.current_loaded_models:
            patcher = loaded.model
            if getattr(patcher, "model", None) is model.model and hasattr(patcher, "use_ejected"):
                ejected.enter_context(patcher.use_ejected())
        yield


def plain_layers(model: Any) -> dict[str, torch.nn.Module]:
    """The quantizable layers of a MODEL's own."""
    with without_injections(model):
        return dict(quantizable_layers(model.model.diffusion_model))


def original_tensor(patcher: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a patcher's model as it was loaded: while a patched clone is in use, it is in the backup."""
    backup = patcher.backup.get(name)
    return tensor if backup is None else backup.weight


def patched_tensor(patcher: Any, name: str, original: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A weight with its patches, computed as ComfyUI does when it saves a model, in its own type or another."""
    device = patcher.load_device
    compute_dtype = getattr(comfy.model_management, "lora_compute_dtype", lambda _device: torch.float32)(device)
    weight = comfy.model_management.cast_to_device(original, device, compute_dtype, copy=True)
    weight = comfy.lora.calculate_weight(patcher.patches[name], weight, name)
    return weight.to(dtype or original.dtype).cpu()


def weights_digest(model: Any) -> int:
    """A checksum of all parameters of the diffusion model as they were loaded, without patches."""
    found = 0
    with without_injections(model):
        for name, parameter in model.model.diffusion_model.named_parameters():
            tensor = original_tensor(model, f"diffusion_model.{name}", parameter).detach()
            plain = tensor.dequantize() if is_quantized(tensor) else tensor
            found = zlib.crc32(tensor_bytes(plain.cpu()), found)
    return found


def unpatched_weights(model: Any) -> Callable[[str], torch.Tensor]:
    """The weight of a layer as it was loaded, by the layer's name."""
    modules = dict(quantizable_layers(model.model.diffusion_model))

    def weight_of(layer: str) -> Any:
        module: Any = modules[layer]
        return original_tensor(model, f"diffusion_model.{layer}.weight", module.weight)

    return weight_of


def patched_weights(model: Any) -> Callable[[str], torch.Tensor]:
    """The weight of a layer with the MODEL's own patches, by the layer's name."""
    original = unpatched_weights(model)

    def weight_of(layer: str) -> torch.Tensor:
        name = f"diffusion_model.{layer}.weight"
        return patched_tensor(model, name, original(layer)) if model.patches.get(name) else original(layer)

    return weight_of
