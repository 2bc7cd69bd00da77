"""Makes a proof on a ComfyUI server, by a workflow of three nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .comfyui import ServerError


class RunsWorkflows(Protocol):
    """A server, or an object that owns one."""

    def run(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """The ``ui`` output of the nodes, by node."""
        ...


@dataclass(frozen=True)
class ProofRequest:
    """What HSWQ Prove is to do, by the names of its inputs; the models by their names in ComfyUI's list."""

    reference: str
    candidate: str
    prompts: str = ""
    negative: str = ""
    seeds: int = 4
    seed: int = 1000
    steps: int = 25
    cfg: float = 7.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    width: int = 1024
    height: int = 1024
    save_pictures: bool = False
    keep_reference: bool = False


def prove(client: RunsWorkflows, request: ProofRequest) -> tuple[dict[str, Any], Path]:
    """``proof.json`` and the page beside it. The server writes both: it runs on this machine, or shares its folder.

    Errors: ServerError when ComfyUI refuses or fails, or what it wrote cannot be read here.
    """
    inputs = {k: v for k, v in vars(request).items() if k not in ("reference", "candidate")}
    found = client.run(
        {
            "reference": {"class_type": "HSWQLoader", "inputs": {"ckpt_name": request.reference}},
            "candidate": {"class_type": "HSWQLoader", "inputs": {"ckpt_name": request.candidate}},
            "prove": {
                "class_type": "HSWQProve",
                "inputs": inputs
                | {"reference": ["reference", 0], "candidate": ["candidate", 0]}
                | {"clip": ["reference", 1], "vae": ["reference", 2]},
            },
        }
    )
    page = Path(found["prove"]["text"][1])
    try:
        return json.loads(page.with_name("proof.json").read_text("utf-8")), page
    except (OSError, ValueError) as error:
        raise ServerError(
            "the proof was written where it cannot be read", where=page, remedy="Open it on the server's machine"
        ) from error
