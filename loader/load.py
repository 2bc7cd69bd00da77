"""Opening checkpoints and diffusion models: FP8 stays in memory as it is on disk, kept layers stay kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.utils

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from .ops import HSWQOperations
from .weights import Summary, join_scales

logger = logging.getLogger(__name__)


def load_checkpoint(path: Path, embedding_directory: Any = None) -> tuple[Any, Any, Any]:
    """A full checkpoint as ComfyUI's MODEL, CLIP and VAE.

    Errors: CheckpointError for files that are not safetensors, are damaged, or hold no model that ComfyUI knows.
    """
    state_dict, metadata, summary = _read(path)
    found = comfy.sd.load_state_dict_guess_config(
        state_dict,
        output_vae=True,
        output_clip=True,
        embedding_directory=embedding_directory,
        model_options=_options(summary),
        metadata=metadata,
    )
    if found is None or found[0] is None:
        raise _unknown(path)
    _log(path, summary)
    return found[0], found[1], found[2]


def load_diffusion_model(path: Path) -> Any:
    """A diffusion model (a file of its own, or the one inside a checkpoint) as ComfyUI's MODEL.

    Errors: as for ``load_checkpoint``.
    """
    state_dict, metadata, summary = _read(path)
    model = comfy.sd.load_diffusion_model_state_dict(state_dict, model_options=_options(summary), metadata=metadata)
    if model is None:
        raise _unknown(path)
    _log(path, summary)
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str], Summary]:
    with CheckpointReader(path) as reader:  # checks the header against the file, and names what is wrong
        metadata = {k: v for k, v in reader.metadata.items() if k != "_quantization_metadata"}
    state_dict = comfy.utils.load_torch_file(str(path))
    prefix = comfy.model_detection.unet_prefix_from_state_dict(state_dict)
    if not any(key.startswith(prefix) for key in state_dict):
        prefix = ""
    return state_dict, metadata, join_scales(state_dict, prefix, path)


def _options(summary: Summary) -> dict[str, Any]:
    return {"custom_operations": HSWQOperations, "dtype": summary.dtype}


def _unknown(path: Path) -> CheckpointError:
    return CheckpointError(
        "ComfyUI does not know this kind of model",
        where=path,
        do="Choose a checkpoint of a model that ComfyUI supports",
    )


def _log(path: Path, summary: Summary) -> None:
    logger.info(
        "HSWQ: %s: %d layers in FP8, %d in %s, %.1f MB of weights",
        path.name,
        summary.fp8_layers,
        summary.other_layers,
        str(summary.dtype).removeprefix("torch."),
        summary.nbytes / 1e6,
    )
