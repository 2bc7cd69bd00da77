"""MODEL, CLIP and VAE as a source to quantize: what Save Checkpoint would write, one tensor at a time.

Patches (LoRA, merges) are computed for one weight when it is read, as ComfyUI computes them, so no second copy of the
model is ever in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch

from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.dtypes import is_float
from ..hswq_core.files.layers import find_prefix
from ..hswq_core.files.live_source import LiveSource, LiveTensor, StoredTensor
from ..hswq_core.files.source import TensorSource
from ..hswq_core.files.text_encoders import TEXT_ENCODERS
from ..hswq_core.fingerprint import elements_at, positions
from ..hswq_core.planning.matched_source import names_differ
from .load import load_diffusion_model
from .provenance import patches_of, unwritable_patches
from .quantized_tensor import is_quantized
from .weights import original_tensor, patched_tensor, without_injections

SAMPLING_SETTINGS = frozenset({"v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min"})
"""Tensors that say how a model is sampled, as ComfyUI writes and reads them."""
CONNECTED = "the connected MODEL"
_VAES = ("first_stage_model.", "vae.")


def connected_source(
    model: Any,
    clip: Any,
    vae: Any,
    file: CheckpointReader | None,
    origins: Mapping[str, Sequence[CheckpointReader]] | None = None,
) -> LiveSource:
    """A source that is the connected MODEL, with its text encoder and VAE.

    Args:
        clip, vae: where they are not connected, those of the file.
        file: the checkpoint that the model came from, for what is not connected and for its metadata.
        origins: the files that ``model``, ``clip`` and ``vae`` were loaded from, by that name; of a merge first that
            of its first model. What is in them is written as they have it.

    Errors: CheckpointError for a model that is held in FP8 or another quantized type, or has a LoRA that is not added
        to its weights.
    """
    if beside := unwritable_patches(model):
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        raise CheckpointError(
            f"a patch acts beside the weights ({min(beside)}{more}), and no file can hold that",
            where=CONNECTED,
            remedy="Put the LoRA on with Load LoRA, which adds it to the weights, and calibrate once more",
        )
    files = origins or {}
    live = _with_origins(_diffusion_model(model), files.get("model", ())) | _settings(model)
    replaced = set(live)
    if clip is not None:
        live |= _with_origins(_text_encoder(model, clip), files.get("clip", ()))
    if vae is not None:
        live |= _with_origins(_vae(model, vae), files.get("vae", ()))
    rest = frozenset()
    if file is not None:
        unet = find_prefix(file)
        gone = (unet, *(TEXT_ENCODERS if clip is not None else ()), *(_VAES if vae is not None else ()))
        # A file with the diffusion model alone has an empty prefix, and nothing else to take over.
        rest = frozenset(key for key in file.tensors if not key.startswith(gone)) - replaced - SAMPLING_SETTINGS
    return LiveSource(
        name=CONNECTED,
        live=live,
        rest=file,
        rest_keys=rest,
        metadata=_metadata(model) if file is None else file.metadata,
        patches=patches_of(model),
    )


def by_native_names(file: CheckpointReader, statistics: Statistics) -> TensorSource:
    """The file, or if its layers are named otherwise (by diffusers, by their author), what ComfyUI makes of it.

    Errors: CheckpointError for a file that ComfyUI does not know.
    """
    if not names_differ(file, statistics):
        return file
    model, _ = load_diffusion_model(file.path)
    return LiveSource(str(file.path), _diffusion_model(model), metadata=file.metadata)


def is_as_in_file(model: Any, file: CheckpointReader) -> bool:
    """Whether a MODEL has no patches, and is sampled as the file says: then the file is what it is."""
    in_file = SAMPLING_SETTINGS & file.tensors.keys()
    return not patches_of(model) and in_file == _settings(model).keys()


def _with_origins(live: Mapping[str, LiveTensor], files: Sequence[CheckpointReader]) -> dict[str, LiveTensor]:
    return {key: replace(tensor, origin=_origin(key, tensor, files)) for key, tensor in live.items()}


def _origin(key: str, tensor: LiveTensor, files: Sequence[CheckpointReader]) -> StoredTensor | None:
    """The tensor of a file that one in memory was loaded from; of several that fit, the one that it agrees with."""
    found = [
        StoredTensor(file, name)
        for file in files
        for name in dict.fromkeys((key, *(key.removeprefix(prefix) for prefix in _VAES)))
        if name in file.tensors
        and is_float(file.tensors[name].dtype)
        and file.tensors[name].shape == tuple(tensor.original.shape)
    ]
    if len(found) < 2:  # elements of thousands of tensors need not be read
        return found[0] if found else None
    return next((each for each in found if _agrees(each, tensor.original)), found[0])


def _agrees(stored: StoredTensor, held: torch.Tensor) -> bool:
    """Whether a few elements are the same, in the type that memory has them in."""
    if not held.numel():
        return True
    places = positions(stored.key)
    theirs = torch.tensor(stored.file.elements(stored.key, places)).to(held.dtype)
    return theirs.float().tolist() == elements_at(held, places)


def _diffusion_model(model: Any) -> dict[str, LiveTensor]:
    with without_injections(model):
        tensors = model.model.diffusion_model.state_dict()
    saved = model.model.model_config.process_unet_state_dict_for_saving(dict(tensors))
    names = {id(tensor): f"diffusion_model.{key}" for key, tensor in tensors.items()}
    return {key: _live(model, names[id(tensor)], tensor) for key, tensor in saved.items()}


def _live(patcher: Any, name: str, tensor: torch.Tensor) -> LiveTensor:
    original = original_tensor(patcher, name, tensor)
    if is_quantized(original) or (original.is_floating_point() and original.dtype.itemsize == 1):
        raise CheckpointError(
            f"the connected MODEL holds {name} in a quantized type",
            remedy="Load the original checkpoint, with HSWQ Loader where ComfyUI's own converts it",
        )
    return LiveTensor(original, partial(patched_tensor, patcher, name, original) if patcher.patches.get(name) else None)


def _text_encoder(model: Any, clip: Any) -> dict[str, LiveTensor]:
    patcher = clip.patcher
    tensors = {}
    for name, tensor in clip.get_sd().items():
        live = _live(patcher, name, tensor)
        # Converting the names splits and joins tensors, so patches cannot wait.
        tensors[name] = live.original if live.compute_patched is None else live.compute_patched(live.original.dtype)
    return _of(model.model.model_config.process_clip_state_dict_for_saving(tensors))


def _vae(model: Any, vae: Any) -> dict[str, LiveTensor]:
    return _of(model.model.model_config.process_vae_state_dict_for_saving(vae.get_sd()))


def _settings(model: Any) -> dict[str, LiveTensor]:
    """How the model is sampled, as Save Checkpoint says it."""
    settings: dict[str, torch.Tensor] = {}
    sampling = model.get_model_object("model_sampling")
    predicts_v = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    if isinstance(sampling, comfy.model_sampling.ModelSamplingContinuousEDM) and predicts_v:
        settings["edm_vpred.sigma_max"] = torch.tensor(sampling.sigma_max).float()
        settings["edm_vpred.sigma_min"] = torch.tensor(sampling.sigma_min).float()
    if model.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        settings["v_pred"] = torch.tensor([])
        if getattr(sampling, "zsnr", False):
            settings["ztsnr"] = torch.tensor([])
    return _of(settings)


def _metadata(model: Any) -> dict[str, str]:
    kinds = {
        comfy.model_base.SDXL: "stable-diffusion-xl-v1-base",
        comfy.model_base.SDXLRefiner: "stable-diffusion-xl-v1-refiner",
        comfy.model_base.SD3: "stable-diffusion-v3-medium",
    }
    found = next((name for kind, name in kinds.items() if isinstance(model.model, kind)), None)
    if found is None:
        return {}
    return {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": found, "modelspec.implementation": "sgm"}


def _of(tensors: Mapping[str, torch.Tensor]) -> dict[str, LiveTensor]:
    return {key: LiveTensor(tensor) for key, tensor in tensors.items()}
