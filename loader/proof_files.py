"""What HSWQ Prove writes: the page, the figures as JSON, an image of some pairs, and all images on request."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ..hswq_core.errors import CheckpointError, TargetError, printable
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.inspection import inspect_checkpoint
from ..hswq_core.files.names import next_free, usable_name
from ..hswq_core.files.replace import replace
from ..hswq_core.progress import Progress
from ..hswq_core.proof import Proof, proof_page
from ..hswq_core.proof.page import Pictures
from ..hswq_core.proof.verdict import ProvedFile
from ..hswq_core.publishing.hashes import hashes_of
from ..hswq_core.publishing.shown_proof import PAIRS_IMAGE
from .images import as_jpeg, as_pil
from .provenance import opened_file, patches_of

_PAIRS_IN_AN_IMAGE = 4


def files_behind(listed: Iterable[str], model: Any) -> set[Path]:
    """The files that a MODEL was opened from.

    Args: listed: what the workflow says, as "LIST/NAME"; a loader whose path is connected is not among them.
    """
    opened = opened_file(model)
    named = (folder_paths.get_full_path(*each.split("/", 1)) for each in listed)
    return {Path(file) for file in named if file} | ({opened} if opened else set())


def name_of(files: Collection[Path], model: Any, otherwise: str) -> str:
    """What a model is called: its files, and whether there is something on top of them."""
    name = "+".join(sorted(file.name for file in files)) or otherwise
    return f"{name} with patches" if patches_of(model) else name


def proved_file(files: Collection[Path], model: Any, progress: Progress) -> ProvedFile | None:
    """The file that a model is; ``None`` for a merge, a patched model, and a file that is gone.

    Args: progress: called while the file is hashed.
    """
    if len(files) != 1 or patches_of(model):
        return None
    (file,) = files
    try:
        sha256 = hashes_of(file, progress)["SHA256"]
        with contextlib.suppress(CheckpointError):  # one that is no safetensors file says nothing of itself
            with CheckpointReader(file) as reader:
                found = inspect_checkpoint(reader)
            return ProvedFile(file.name, found.bytes, sha256, found.format, found.predicted_error)
        return ProvedFile(file.name, file.stat().st_size, sha256)
    except OSError:
        return None


def write_proof(
    folder: Path, proof: Proof, pictures: Sequence[Pictures], side_by_side: torch.Tensor, unfinished: Path
) -> Path:
    """The page, proof.html, with the rest beside it, in a new folder named for the candidate.

    Args:
        side_by_side: [pairs, H, W, 3].
        unfinished: a folder inside ``folder`` with what goes beside the page; it becomes the new one.

    Errors: TargetError when it cannot be written; there is no new folder then.
    """
    try:
        said = json.dumps(proof.as_dict(), indent=1, ensure_ascii=False)
        (unfinished / "proof.json").write_text(printable(said), "utf-8")
        (unfinished / "proof.html").write_text(printable(proof_page(proof, pictures)), "utf-8")
        (unfinished / PAIRS_IMAGE).write_bytes(as_jpeg(side_by_side[:_PAIRS_IN_AN_IMAGE].flatten(0, 1)))
        made = next_free(folder / usable_name(Path(proof.candidate).stem))
        replace(unfinished, made)
    except OSError as error:
        raise _failed(folder, error) from error
    return made / "proof.html"


def write_images(folder: Path, number: int, pair: Sequence[torch.Tensor]) -> None:
    """Write the images [B, H, W, 3] of reference and candidate as PNG, each side into a folder of its own.

    Errors: TargetError when they cannot be written.
    """
    try:
        for side, batch in zip(("reference", "candidate"), pair, strict=True):
            (folder / side).mkdir(exist_ok=True)
            for frame, image in enumerate(batch):
                as_pil(image).save(folder / side / f"{number:04}_{frame:03}.png")
    except OSError as error:
        raise _failed(folder.parent.parent, error) from error


def _failed(folder: Path, error: OSError) -> TargetError:
    return TargetError(
        f"the proof could not be written ({error.strerror})", where=folder, remedy="Check the disk and the folder"
    )
