"""The sampling runs of a proof, kept in files until it is finished, so that a cancelled proof continues.

Their folder's name is a digest of all that they depend on: a proof that differs in any of it does not find them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..calibration.inputs_file import checked_inputs, stored_inputs
from ..calibration.model_inputs import ModelInput, share_equal
from ..errors import CheckpointError, TargetError
from ..files.checkpoint import CheckpointReader
from ..files.replace import replace


@dataclass(frozen=True)
class Run:
    """A sampling run.

    Attributes:
        latents: after each step, the last one clean.
        calls: of the model, with what it gave, where they were asked for.
        forced_error: see ``Pair``; of a candidate's run.
    """

    latents: Sequence[torch.Tensor]
    calls: Sequence[tuple[ModelInput, torch.Tensor]] = ()
    forced_error: tuple[float, ...] = ()


class UnfinishedRuns:
    """Runs in files, until ``remove``. Starting others in ``folder`` removes what was left of earlier ones.

    Attributes:
        folder: where these are.

    Args:
        folder: where proofs that are not finished are kept.
        depends_on: everything that the runs depend on, as plain data.
    """

    def __init__(self, folder: Path, depends_on: object) -> None:
        text = json.dumps(depends_on, sort_keys=True, default=str)
        self.folder = folder / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        for other in folder.glob("*") if folder.is_dir() else ():
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def run(self, name: str, make: Callable[[], Run]) -> Run:
        """The run of this name: read from its file, or made by ``make`` and written.

        Errors: TargetError when it cannot be written.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            return _loaded(path)
        except (CheckpointError, ValueError, KeyError):
            made = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _save(made, path)
        except (OSError, SafetensorError) as error:
            raise TargetError(
                f"a run of the proof could not be written ({error})", where=path, remedy="Free some space on that disk"
            ) from error
        return made

    def remove(self) -> None:
        """When they are of no more use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _save(run: Run, path: Path) -> None:
    tensors, described = stored_inputs(share_equal([entry for entry, _ in run.calls]))
    tensors |= {f"latents.{number}": tensor.clone().contiguous() for number, tensor in enumerate(run.latents)}
    tensors |= {f"outputs.{number}": output.clone().contiguous() for number, (_, output) in enumerate(run.calls)}
    said = {"latents": len(run.latents), "inputs": described, "forced_error": run.forced_error}
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, {"run": json.dumps(said)})
    replace(unfinished, path)


def _loaded(path: Path) -> Run:
    """Errors: CheckpointError, ValueError or KeyError for a file that is not there or no run."""
    with CheckpointReader(path) as file:
        said = json.loads(file.metadata["run"])
        tensors = {key: file.tensor(key) for key in file.tensors}
    inputs = checked_inputs(said["inputs"], tensors)
    return Run(
        [tensors[f"latents.{number}"] for number in range(said["latents"])],
        [(entry, tensors[f"outputs.{number}"]) for number, entry in enumerate(inputs)],
        tuple(said["forced_error"]),
    )
