"""A proof from two MODELs: every pair sampled, decoded and compared, and the page written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..hswq_core.files.unfinished import unfinished_folder
from ..hswq_core.progress import Progress
from ..hswq_core.proof import Pair, Proof
from ..hswq_core.proof.compare import compare_runs
from ..hswq_core.proof.page import Pictures
from ..hswq_core.proof.pair_images import PairImages
from ..hswq_core.proof.plan import ProofPlan
from ..hswq_core.proof.runs import Run, UnfinishedRuns
from .clip_metrics import ClipMetrics
from .images import data_uri
from .latents import empty_latent
from .paired_runs import Sampling, paired_runs
from .proof_files import files_behind, name_of, proved_file, write_images, write_proof
from .provenance import patches_of
from .sample import encode
from .weights import weights_digest


@dataclass(frozen=True)
class ProvedModels:
    """What ComfyUI gives the proof.

    Attributes:
        clip, vae: of both models.
        clip_vision: compares the images by CLIP; ``None`` for no such comparison.
        listed: what the workflow says of the files of reference and candidate, as "LIST/NAME".
    """

    reference: Any
    candidate: Any
    clip: Any
    vae: Any
    clip_vision: Any
    listed: tuple[Sequence[str], Sequence[str]]

    @property
    def sides(self) -> dict[str, Any]:
        """The MODELs by name."""
        return {"reference": self.reference, "candidate": self.candidate}


@dataclass(frozen=True)
class WrittenProof:
    """Attributes:
    page: proof.html.
    images: side by side, [pairs * frames, H, W, 3].
    """

    proof: Proof
    page: Path
    images: torch.Tensor


def prove(
    models: ProvedModels,
    plan: ProofPlan,
    folder: Path,
    *,
    workflow: Mapping[str, Any],
    reference_workflow: Mapping[str, Any],
    save_images: bool,
    keep_reference: bool,
    on_steps: Callable[[int], None],
    hashing: Progress,
) -> WrittenProof:
    """Make the pairs of a plan, compare them, and write the proof into a new folder inside ``folder``.

    Runs of a proof that was cancelled are kept in ``folder``: the same proof continues with them, and one of another
    candidate with those of the reference.

    Args:
        workflow: the nodes that decide what is sampled; runs of another workflow are not continued.
        reference_workflow: those among them that decide what is sampled of the reference.
        save_images: whether to write all images as PNG.
        keep_reference: whether the reference's runs stay in ``folder`` for the next candidate.
        on_steps: called with the steps that were made of both models together.
        hashing: called while the models' files are hashed.

    Errors: HSWQError for models that cannot be compared. TargetError when something cannot be written.
    """
    sampling = Sampling(
        plan=plan,
        positive={text: encode(models.clip, [text]) for text in plan.prompts[: plan.count]},
        negative=encode(models.clip, [plan.negative]),
        latent=empty_latent(models.reference, 1, plan.width, plan.height),
        on_steps=on_steps,
    )
    settings = plan.settings(str(models.reference.load_device))
    original, other = [(weights_digest(model), patches_of(model)) for model in models.sides.values()]
    kept = UnfinishedRuns(folder / "unfinished", [settings, plan.pairs, reference_workflow, original])
    runs = kept, UnfinishedRuns(kept.folder / "candidates", [workflow, other])
    judge = ClipMetrics(models.clip_vision, models.clip) if models.clip_vision is not None else None
    pairs, pictures, shown = list[Pair](), list[Pictures](), PairImages(plan.count)
    with unfinished_folder(folder) as unfinished:
        for number, both in enumerate(paired_runs(models.reference, models.candidate, sampling, runs)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            prompt, seed = plan.pairs[number]
            images = (_decoded(models.vae, both[0]), _decoded(models.vae, both[1]))
            further = judge.of_pair(prompt, *images) if judge else {}
            pair, compared = compare_runs(prompt, seed, both, images, further)
            pairs.append(pair)
            shown.add(compared.side_by_side)
            pictures.append(Pictures(*(data_uri(batch[0]) for batch in (*images, compared.difference))))
            if save_images:
                write_images(unfinished, number, images)
        proof = _proof(models, pairs, settings, hashing)
        page = write_proof(folder, proof, pictures, shown.images, unfinished)
    (runs[1] if keep_reference else kept).remove()
    return WrittenProof(proof, page, shown.images)


def _decoded(vae: Any, run: Run) -> torch.Tensor:
    """The images of a run [B, H, W, 3]; the frames of a video one after another."""
    images = vae.decode(run.latents[-1])
    return images.flatten(0, 1) if images.dim() == 5 else images


def _proof(models: ProvedModels, pairs: Sequence[Pair], settings: Mapping[str, object], hashing: Progress) -> Proof:
    """The pairs with the names of the models, and their files."""
    names, proved = [], {}
    for (side, model), listed in zip(models.sides.items(), models.listed, strict=True):
        files = files_behind(listed, model)
        names.append(name_of(files, model, side))
        file = proved_file(files, model, hashing)
        if file is not None:
            proved[side] = file
    return Proof(names[0], names[1], tuple(pairs), settings, proved)
