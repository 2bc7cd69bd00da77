"""Opening checkpoints and diffusion models: FP8 stays in memory as it is on disk, kept layers stay kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sd
from comfy.patcher_extension import WrappersMP

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.deferred import read_deferred
from ..hswq_core.files.inspection import Inspection
from ..hswq_core.inference.scratch import reused_memory
from ..hswq_core.log import get_logger
from .compat import remember_reload, without_dynamic_vram
from .fast import FastLayers, fast_layers, fast_operations
from .opened_file import OpenedFile, opened
from .ops import HSWQOperations, keep_quantized_tensors
from .patcher import with_quantized_patching
from .provenance import remember_file
from .quantized_tensor import is_quantized

logger = get_logger(__name__)
_COPYING = re.compile(r'While copying the parameter named "([^"]+)"')
_PARTS = ("model", "clip", "vae")


@dataclass(frozen=True)
class Loaded:
    """What the file holds, and how its layers compute, if that is not exactly."""

    found: Inspection
    fast: FastLayers | None


@dataclass(frozen=True)
class _Opening:
    """How a file is opened, so that it can be opened once more.

    Attributes:
        embeddings: the folders of embeddings, for text encoders.
        fast, reading: as for ``load_checkpoint``.
        paged: with dynamic VRAM, where ComfyUI has it.
    """

    path: Path
    embeddings: Any = None
    fast: bool = False
    reading: str = "auto"
    paged: bool = True


def load_checkpoint(
    path: Path, embedding_directory: Any = None, *, fast: bool = False, reading: str = "auto"
) -> tuple[Any, Any, Any, Loaded]:
    """A full checkpoint as ComfyUI's MODEL, CLIP and VAE, and what was loaded.

    Args:
        fast: multiply Linear layers in 8 bits where the device can: faster, less exact.
        reading: whether the model stays ``mapped`` to the file, or is in ``memory`` (see ``choose_reading``).

    Errors: CheckpointError for files that are not safetensors, are damaged, hold no model that ComfyUI knows, or
    a diffusion model alone, and for those that change meanwhile.
    """
    opening = _Opening(path, embedding_directory, fast, reading)
    *parts, loaded = _parts_of(opening, _PARTS)
    for name, part in zip(_PARTS, parts, strict=True):
        remember_reload(_patcher_of(part), _reload_part, opening, name)
    model, clip, vae = parts
    return model, clip, vae, loaded


def load_diffusion_model(path: Path, *, fast: bool = False, reading: str = "auto") -> tuple[Any, Loaded]:
    """A diffusion model (a file of its own, or that of a checkpoint) as ComfyUI's MODEL, and what was loaded.

    Args, errors: as for ``load_checkpoint``.
    """
    opening = _Opening(path, fast=fast, reading=reading)
    model, loaded = _diffusion_model(opening)
    remember_reload(model, _reload_diffusion_model, opening)
    return model, loaded


def _reload_part(opening: _Opening, part: str, disable_dynamic: bool = False) -> Any:
    """The patcher of one part of a checkpoint, loaded once more."""
    *parts, _ = _parts_of(replace(opening, paged=not disable_dynamic), (part,))
    return _patcher_of(parts[_PARTS.index(part)])


def _reload_diffusion_model(opening: _Opening, disable_dynamic: bool = False) -> Any:
    return _diffusion_model(replace(opening, paged=not disable_dynamic))[0]


def _patcher_of(part: Any) -> Any:
    """Of a CLIP or VAE, which a checkpoint may not have; a MODEL is one."""
    return getattr(part, "patcher", part)


def _parts_of(opening: _Opening, wanted: tuple[str, ...]) -> tuple[Any, Any, Any, Loaded]:
    """A checkpoint's parts, those that are wanted."""
    path = opening.path
    with opened(path, opening.reading) as file:
        if all(key.startswith(file.prefix) for key in file.state_dict):
            raise CheckpointError(
                "this is a diffusion model alone, without text encoder and VAE",
                where=path,
                remedy="Move it to models/diffusion_models and open it with HSWQ Diffusion Model Loader",
            )
        found = _loaded(
            file,
            comfy.sd.load_state_dict_guess_config,
            opening,
            embedding_directory=opening.embeddings,
            **{f"output_{part}": part in wanted for part in _PARTS},
        )
        if found is None or ("model" in wanted and found[0] is None):
            raise _unknown_model_error(path)
        patchers = [_patcher_of(part) for part in found[:3]]
        read_deferred(patcher.model for patcher in patchers if patcher is not None)
    if found[0] is None:
        return None, found[1], found[2], Loaded(file.found, None)
    model, loaded = _finish_model(found[0], file, opening.fast)
    return model, found[1], found[2], loaded


def _diffusion_model(opening: _Opening) -> tuple[Any, Loaded]:
    with opened(opening.path, opening.reading) as file:
        model = _loaded(file, comfy.sd.load_diffusion_model_state_dict, opening)
        if model is None:
            raise _unknown_model_error(opening.path)
    return _finish_model(model, file, opening.fast)


def _loaded(file: OpenedFile, load: Callable[..., Any], opening: _Opening, **options: Any) -> Any:
    """What one of ComfyUI's functions makes of the file.

    Some models hold the weight of a layer as a parameter of their own, which takes no quantized tensor. Which ones they
    are is known when they fail; then they are dequantized.
    """
    operations = fast_operations() if opening.fast else HSWQOperations
    options |= {
        "model_options": {"custom_operations": operations, "dtype": file.dtype},
        "metadata": file.metadata,
        **({} if opening.paged else without_dynamic_vram(load)),
    }
    with _add_file_to_errors(file.path):
        try:
            return load(dict(file.state_dict), **options)
        except RuntimeError as error:
            named = (file.prefix + name for name in _COPYING.findall(str(error)))
            raw = [key for key in named if is_quantized(file.state_dict.get(key))]
            if not raw:
                raise
            for key in raw:
                file.state_dict[key] = file.state_dict[key].dequantize()
            return load(dict(file.state_dict), **options)


def _finish_model(model: Any, file: OpenedFile, fast: bool) -> tuple[Any, Loaded]:
    """A MODEL whose weights are whole tensors to everything that runs inside a sampling run.

    A control LoRA, for one, builds its network there from the diffusion model's state dict.

    Errors: CheckpointError when layers of the file found no place in the model.
    """
    path, modules = file.path, dict(model.model.diffusion_model.named_modules())
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
        file.check_unchanged()
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
