"""Opening checkpoints and diffusion models: FP8 stays in memory as it is on disk, kept layers stay kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.deferred import read_deferred
from ..hswq_core.files.dtypes import is_float
from ..hswq_core.files.inspection import Inspection, inspect_checkpoint
from ..hswq_core.files.names import check_name
from ..hswq_core.files.reading import choose_reading
from ..hswq_core.files.scale_check import check_scales
from ..hswq_core.files.source import FileIdentity
from ..hswq_core.formats.refusal import is_refusal
from ..hswq_core.heap import trim_heap
from ..hswq_core.inference.scratch import reused_memory
from ..hswq_core.log import get_logger
from .compat import exact_patching
from .fast import FastLayers, fast_layers, fast_operations
from .ops import HSWQOperations, keep_quantized_tensors
from .patching import with_quantized_patching
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
    with _opened(path, reading) as file:
        if all(key.startswith(file.prefix) for key in file.state_dict):
            raise CheckpointError(
                "this is a diffusion model alone, without text encoder and VAE",
                where=path,
                remedy="Move it to models/diffusion_models and open it with HSWQ Diffusion Model Loader",
            )
        found = _loaded(
            file,
            comfy.sd.load_state_dict_guess_config,
            output_vae=True,
            output_clip=True,
            embedding_directory=embedding_directory,
            model_options=_options(file, fast),
        )
        if found is None or found[0] is None:
            raise _unknown_model_error(path)
        patchers = (getattr(part, "patcher", None) for part in found[1:3])
        read_deferred(patcher.model for patcher in (found[0], *patchers) if patcher is not None)
    model, loaded = _finish_model(found[0], path, file, fast)
    return model, found[1], found[2], loaded


def load_diffusion_model(path: Path, *, fast: bool = False, reading: str = "auto") -> tuple[Any, Loaded]:
    """A diffusion model (a file of its own, or that of a checkpoint) as ComfyUI's MODEL, and what was loaded.

    Args, errors: as for ``load_checkpoint``.
    """
    with _opened(path, reading) as file:
        model = _loaded(file, comfy.sd.load_diffusion_model_state_dict, model_options=_options(file, fast))
        if model is None:
            raise _unknown_model_error(path)
    return _finish_model(model, path, file, fast)


@dataclass(frozen=True)
class _File:
    path: Path
    state_dict: dict[str, Any]
    metadata: dict[str, str]
    prefix: str
    dtype: torch.dtype
    found: Inspection
    mapped: FileIdentity | None


@contextmanager
def _opened(path: Path, reading: str) -> Iterator[_File]:
    """The file, while a model is made of it."""
    with CheckpointReader(path) as reader:  # checks the header against the file, and names what is wrong
        metadata = {k: v for k, v in reader.metadata.items() if k != "_quantization_metadata"}
        # A merge may have left a key of a LoRA behind.
        if sum(".lora_" in key for key in reader.tensors) > len(reader.tensors) / 2:
            raise CheckpointError("this is a LoRA, not a model", where=path, remedy="Open it with Load LoRA")
        inspection = inspect_checkpoint(reader)
        check_name(path)
        prefix = comfy.model_detection.unet_prefix_from_state_dict(reader.tensors)
        if not any(key.startswith(prefix) for key in reader.tensors):
            prefix = ""
        check_scales(reader, prefix)
        dtype = majority_float(reader.tensors, prefix)
        wanted = [key for key, info in reader.tensors.items() if not is_refusal(key, info.shape)]
        how = choose_reading(
            reading,
            path,
            sum(reader.tensors[key].nbytes for key in wanted),
            int(comfy.model_management.get_free_memory(torch.device("cpu"))),
            never_mapped=getattr(comfy.utils, "DISABLE_MMAP", False),
        )
        logger.info("HSWQ: %s is %s", path.name, how.said)
        try:
            state_dict = reader.mapped(wanted) if how.mapped else _in_memory(reader, wanted, prefix)
            join_scales(state_dict, prefix, dtype, path)
            mapped = reader.identity if how.mapped else None
            yield _File(path, state_dict, metadata, prefix, dtype, inspection, mapped)
            trim_heap()  # of what was copied
        finally:
            reader.check_unchanged()  # what follows from that is no other error


def _in_memory(reader: CheckpointReader, wanted: list[str], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a file in memory.

    The diffusion model takes its own over. Text encoders and VAEs copy theirs, which are read one by one as that
    happens; what is no float may be something else than a weight (a tokenizer), and is asked for otherwise.
    """
    return {
        key: reader.deferred(key)
        if not key.startswith(prefix) and is_float(reader.tensors[key].dtype)
        else reader.tensor_or_bytes(key)
        for key in wanted
    }


def _loaded(file: _File, load: Callable[..., Any], **options: Any) -> Any:
    """What one of ComfyUI's functions makes of the file.

    Some models hold the weight of a layer as a parameter of their own, which takes no quantized tensor. Which ones they
    are is known when they fail; then they are dequantized.
    """
    options |= {"metadata": file.metadata, **exact_patching(load)}
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
        if file.mapped is not None and file.mapped.is_written_over():
            raise CheckpointError(
                "the file was changed while the model that is mapped to it was in use",
                where=path,
                remedy="Load it again; with reading set to memory, files can change",
            )
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
