"""Opening checkpoints and diffusion models: FP8 stays in memory as it is on disk, kept layers stay kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.inspection import Inspection, inspect_checkpoint
from ..hswq_core.files.names import check_name
from ..hswq_core.files.scale_check import check_scales
from ..hswq_core.formats.refusal import is_refusal
from ..hswq_core.inference.scratch import reused_memory
from ..hswq_core.log import get_logger
from .compat import remember_reload, without_dynamic_vram
from .fast import FastLayers, fast_layers, fast_operations
from .ops import HSWQOperations, keep_quantized_tensors
from .patcher import with_quantized_patching
from .provenance import remember_file
from .quantized_tensor import is_quantized
from .state_dict import join_scales, majority_float

logger = get_logger(__name__)
_COPYING = re.compile(r'While copying the parameter named "([^"]+)"')


@dataclass(frozen=True)
class Loaded:
    """What the file holds, and how its layers compute, if that is not exactly."""

    found: Inspection
    fast: FastLayers | None


def load_checkpoint(path: Path, embedding_directory: Any = None, *, fast: bool = False) -> tuple[Any, Any, Any, Loaded]:
    """A full checkpoint as ComfyUI's MODEL, CLIP and VAE, and what was loaded.

    Args:
        fast: multiply Linear layers in 8 bits where the device can: faster, less exact.

    Errors: CheckpointError for files that are not safetensors, are damaged, hold no model that ComfyUI knows, or
    a diffusion model alone.
    """
    file = _read(path)
    if all(key.startswith(file.prefix) for key in file.state_dict):
        raise CheckpointError(
            "this is a diffusion model alone, without text encoder and VAE",
            where=path,
            remedy="Move it to models/diffusion_models and open it with HSWQ Diffusion Model Loader",
        )
    model, clip, vae, loaded = _parts_of(file, path, embedding_directory, fast)
    for part, patcher in (("model", model), ("clip", _patcher_of(clip)), ("vae", _patcher_of(vae))):
        remember_reload(patcher, _reload_part, path, embedding_directory, fast, part)
    return model, clip, vae, loaded


def load_diffusion_model(path: Path, *, fast: bool = False) -> tuple[Any, Loaded]:
    """A diffusion model (a file of its own, or that of a checkpoint) as ComfyUI's MODEL, and what was loaded.

    Args, errors: as for ``load_checkpoint``.
    """
    model, loaded = _diffusion_model(path, fast)
    remember_reload(model, _reload_diffusion_model, path, fast)
    return model, loaded


def _reload_part(path: Path, embeddings: Any, fast: bool, part: str, disable_dynamic: bool = False) -> Any:
    """The patcher of one part of a checkpoint, loaded once more."""
    wanted = {f"output_{each}": each == part for each in ("model", "clip", "vae")}
    model, clip, vae, _ = _parts_of(_read(path), path, embeddings, fast, paged=not disable_dynamic, **wanted)
    return {"model": model, "clip": _patcher_of(clip), "vae": _patcher_of(vae)}[part]


def _patcher_of(part: Any) -> Any:
    """Of a CLIP or VAE; a checkpoint may have none."""
    return getattr(part, "patcher", None)


def _reload_diffusion_model(path: Path, fast: bool, disable_dynamic: bool = False) -> Any:
    return _diffusion_model(path, fast, paged=not disable_dynamic)[0]


def _parts_of(
    file: _File, path: Path, embeddings: Any, fast: bool, *, paged: bool = True,
    output_model: bool = True, output_clip: bool = True, output_vae: bool = True,
) -> tuple[Any, Any, Any, Loaded]:  # fmt: skip
    """A checkpoint's parts, those that are wanted; ``paged`` is with dynamic VRAM, where ComfyUI has it."""
    with _add_file_to_errors(path):
        found = _loaded(
            file,
            comfy.sd.load_state_dict_guess_config,
            paged,
            output_model=output_model,
            output_vae=output_vae,
            output_clip=output_clip,
            embedding_directory=embeddings,
            model_options=_options(file, fast),
        )
    if found is None or (output_model and found[0] is None):
        raise _unknown_model_error(path)
    if not output_model:
        return None, found[1], found[2], Loaded(file.found, None)
    model, loaded = _finish_model(found[0], path, file, fast)
    return model, found[1], found[2], loaded


def _diffusion_model(path: Path, fast: bool, *, paged: bool = True) -> tuple[Any, Loaded]:
    file = _read(path)
    with _add_file_to_errors(path):
        options = _options(file, fast)
        model = _loaded(file, comfy.sd.load_diffusion_model_state_dict, paged, model_options=options)
    if model is None:
        raise _unknown_model_error(path)
    return _finish_model(model, path, file, fast)


@dataclass(frozen=True)
class _File:
    state_dict: dict[str, Any]
    metadata: dict[str, str]
    prefix: str
    dtype: torch.dtype
    found: Inspection


def _read(path: Path) -> _File:
    with CheckpointReader(path) as reader:  # checks the header against the file, and names what is wrong
        metadata = {k: v for k, v in reader.metadata.items() if k != "_quantization_metadata"}
        # A merge may have left a key of a LoRA behind.
        if sum(".lora_" in key for key in reader.tensors) > len(reader.tensors) / 2:
            raise CheckpointError("this is a LoRA, not a model", where=path, remedy="Open it with Load LoRA")
        inspection = inspect_checkpoint(reader)
        check_name(path)
        wanted = [key for key, info in reader.tensors.items() if not is_refusal(key, info.shape)]
        state_dict = reader.read(wanted, mapped=not getattr(comfy.utils, "DISABLE_MMAP", False))
        prefix = comfy.model_detection.unet_prefix_from_state_dict(state_dict)
        if not any(key.startswith(prefix) for key in state_dict):
            prefix = ""
        check_scales(reader, prefix)
        dtype = majority_float(reader.tensors, prefix)
    join_scales(state_dict, prefix, dtype, path)
    return _File(state_dict, metadata, prefix, dtype, inspection)


def _loaded(file: _File, load: Callable[..., Any], paged: bool, **options: Any) -> Any:
    """What one of ComfyUI's functions makes of the file.

    Some models hold the weight of a layer as a parameter of their own, which takes no quantized tensor. Which ones they
    are is known when they fail; then they are dequantized.
    """
    options |= {"metadata": file.metadata, **({} if paged else without_dynamic_vram(load))}
    try:
        return load(dict(file.state_dict), **options)
    except RuntimeError as error:
        raw = [
            key for name in _COPYING.findall(str(error)) if is_quantized(file.state_dict.get(key := file.prefix + name))
        ]
        if not raw:
            raise
        for key in raw:
            file.state_dict[key] = file.state_dict[key].dequantize()
        return load(dict(file.state_dict), **options)


def _options(file: _File, fast: bool) -> dict[str, Any]:
    return {"custom_operations": fast_operations() if fast else HSWQOperations, "dtype": file.dtype}


def _finish_model(model: Any, path: Path, file: _File, fast: bool) -> tuple[Any, Loaded]:
    """A MODEL whose weights are whole tensors to everything that runs inside a sampling run.

    A control LoRA, for one, builds its network there from the diffusion model's state dict.

    Errors: CheckpointError when layers of the file found no place in the model.
    """
    modules = dict(model.model.diffusion_model.named_modules())
    unplaced = [layer for layer in file.found.quantized if layer not in modules]
    # Where most are, ComfyUI took the names as they are; otherwise it translated them from another tool's.
    if 0 < len(unplaced) < len(file.found.quantized) / 2:
        raise CheckpointError(
            f"ComfyUI took this for a model without the layer {unplaced[0]} and {len(unplaced) - 1} more",
            where=path,
            remedy="Tensors that it tells models by are missing; download the file or quantize it again",
        )
    logger.info("HSWQ: %s: %s", path.name, file.found.summary)

    def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with keep_quantized_tensors(), reused_memory():
            return executor(*args, **kwargs)

    model.__class__ = with_quantized_patching(type(model))  # clones are of their parent's class
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "hswq_loader", sample)
    remember_file(model, path)
    how = fast_layers(model) if fast else None
    if how is not None:
        logger.info("HSWQ: %s: %s", path.name, how)
    return model, Loaded(file.found, how)


@contextmanager
def _add_file_to_errors(path: Path) -> Iterator[None]:
    """An error that knows only the layer gets to know the file."""
    try:
        yield
    except CheckpointError as error:
        what = f"the layer {error.where} cannot be loaded: {error.what}"
        raise CheckpointError(
            what, where=path, remedy="The file is damaged; download it or quantize it again"
        ) from error


def _unknown_model_error(path: Path) -> CheckpointError:
    return CheckpointError(
        "ComfyUI does not know this kind of model",
        where=path,
        remedy="Choose a checkpoint of a model that ComfyUI supports",
    )
