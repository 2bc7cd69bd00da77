"""What a file says of itself by the ModelSpec, so that it is true of it.

Keys and meanings: https://github.com/Stability-AI/ModelSpec, version 1.0.0. The hash is of all tensors' bytes as they
follow one another in the file; it is known when they are written, so the header has room for it (``UNKNOWN_HASH``).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from datetime import date, datetime, timezone
from pathlib import Path

from ..errors import PlanError
from ..formats import FORMATS
from .source import TensorInfo, TensorSource

HASH = "modelspec.hash_sha256"
THUMBNAIL = "modelspec.thumbnail"
_PICTURES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n": "png", b"RIFF": "webp"}
_LARGEST_THUMBNAIL = 256 << 10
UNKNOWN_HASH = "0x" + "0" * 64
_OF_ITS_BYTES = (HASH, "sshs_model_hash", "sshs_legacy_hash")
_REQUIRED = ("modelspec.sai_model_spec", "modelspec.architecture", "modelspec.implementation", "modelspec.title")
_ENDING = re.compile(r" \(HSWQ [^)]*\)$")


def true_metadata(source: TensorSource, prefix: str, mode: str) -> dict[str, str]:
    """The source's metadata, changed where it would not be true of a file of another format.

    What the source says of its own bytes goes under ``source.*``; title, date and usage hint become the file's own, and
    what the specification asks for is added: the architecture is read from the tensors where the source does not say.

    Args:
        prefix: where the diffusion model begins.
        mode: the format of the file; other names than those of formats (``fp16``) are formats without a hint.
    """
    said = dict(source.metadata)
    found = {f"source.{key}" if key in _OF_ITS_BYTES else key: value for key, value in said.items()}
    title = original_title(said) or source.path.stem
    architecture = said.get("modelspec.architecture") or architecture_of(source.tensors, prefix)
    own = {
        "modelspec.sai_model_spec": said.get("modelspec.sai_model_spec", "1.0.0"),
        "modelspec.architecture": architecture,
        "modelspec.implementation": said.get("modelspec.implementation") or implementation_of(architecture),
        "modelspec.title": f"{title} (HSWQ {mode.upper()})",
        "modelspec.date": _today(),
        HASH: UNKNOWN_HASH,
    }
    hint = said.get("modelspec.usage_hint", "")
    for known in FORMATS.values():
        hint = hint.replace(known.hint, "").strip()
    if mode in FORMATS:
        hint = f"{hint} {FORMATS[mode].hint}".strip()
    return found | own | ({"modelspec.usage_hint": hint} if hint else {})


def thumbnail_of(picture: Path) -> str:
    """A picture as the specification wants it in a header: a data URI.

    Errors: PlanError for what is no picture, or a large one.
    """
    try:
        data = picture.read_bytes() if picture.stat().st_size <= _LARGEST_THUMBNAIL else b""
    except OSError as error:
        raise PlanError(f"the thumbnail cannot be read ({error.strerror})", where=picture, remedy="Check it") from error
    kind = next((kind for mark, kind in _PICTURES.items() if data.startswith(mark)), None)
    if kind is None:
        raise PlanError(
            "this is no thumbnail",
            where=picture,
            remedy=f"Give a JPEG, PNG or WebP of at most {_LARGEST_THUMBNAIL >> 10} KiB, as 256 x 256 pixels are",
        )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def original_title(metadata: Mapping[str, str]) -> str:
    """The title of what a file was made from: its own, without the mode."""
    return _ENDING.sub("", metadata.get("modelspec.title", ""))


def origin_of(metadata: Mapping[str, str]) -> str:
    """Who made a file from what, as far as it says: "HSWQ 0.1.0, from Some Model by somebody"; or nothing."""
    version, author = metadata.get("hswq.tool_version"), metadata.get("modelspec.author")
    title = original_title(metadata)
    parts = [
        f"HSWQ {version}, from" if version and title else f"HSWQ {version}" if version else "",
        title,
        f"by {author}" if title and author else "",
    ]
    return " ".join(part for part in parts if part)


def architecture_of(tensors: Mapping[str, TensorInfo], prefix: str) -> str:
    """The architecture's identifier, from marks in the diffusion model; ``unknown`` where there are none."""

    def width(name: str) -> int:
        info = tensors.get(f"{prefix}{name}")
        return info.shape[1] if info is not None and len(info.shape) > 1 else 0

    if width("input_blocks.0.0.weight"):
        by_pooled = {2816: "stable-diffusion-xl-v1-base", 2560: "stable-diffusion-xl-v1-refiner"}
        by_text = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}
        text = width("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
        return by_pooled.get(width("label_emb.0.0.weight")) or by_text.get(text, "unknown")
    if width("double_blocks.0.img_attn.qkv.weight"):
        return "flux-1-dev" if width("guidance_in.in_layer.weight") else "flux-1-schnell"
    if width("joint_blocks.0.x_block.attn.qkv.weight"):
        return "stable-diffusion-v3-medium"
    return "unknown"


def implementation_of(architecture: str) -> str:
    """The code whose names the tensors have."""
    return "sgm" if architecture.startswith("stable-diffusion") else "https://github.com/comfyanonymous/ComfyUI"


def problems_of(metadata: Mapping[str, str]) -> list[str]:
    """What the specification asks for and is not there, in words; empty when all is well."""
    found = [f"{key} is missing" for key in _REQUIRED if not metadata.get(key)]
    if not re.fullmatch(r"0x[0-9a-f]{64}", metadata.get(HASH, UNKNOWN_HASH)):
        found.append(f"{HASH} is no SHA-256 with the prefix 0x")
    if said := metadata.get("modelspec.date"):
        try:
            datetime.fromisoformat(said.replace("Z", "+00:00"))
        except ValueError:
            found.append(f"modelspec.date is no date: {said}")
    return found


def _today() -> str:
    """The day, or that of SOURCE_DATE_EPOCH, for files that are to be made again to the byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdigit():
        return datetime.fromtimestamp(int(epoch), timezone.utc).date().isoformat()
    return date.today().isoformat()
