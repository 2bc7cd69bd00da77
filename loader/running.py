"""What the running ComfyUI says of itself: where it computes, in what, and which kinds of layers its loaders know."""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.cli_args
import comfy.model_management
import comfy.quant_ops
import comfyui_version
import torch

from ..hswq_core.backend import list_kernels
from ..hswq_core.doctor import Diagnosis, Machine, this_machine
from ..hswq_core.doctor.kinds import DESCRIBED, Product
from ..hswq_core.doctor.openings import NEW, OLD, Opening

_SUPPORTS: dict[str, Product] = {
    "supports_fp8_compute": "fp8", "supports_nvfp4_compute": "nvfp4", "supports_mxfp8_compute": "mxfp8",
}  # fmt: skip
"""ComfyUI's own answers, where it has them, before those of the card: its torch may be too old for the card."""
_FP8_PRODUCT = "fp8_matrix_mult"
_SINCE_COMFY_QUANT = "int8_tensorwise"
"""ComfyUI that knows it goes by ``comfy_quant`` beside each layer, and older ones do not."""


@dataclass(frozen=True)
class RunningComfyUI:
    """Attributes:
    loads_as: the one of the two versions of which the doctor tells whose loaders are like its own.
    formats: of layers, that its own loaders know.
    switches: what ``--fast`` has switched on.
    kernels: each set of HSWQ's kernels, and whether it is in use.
    """

    version: str
    machine: Machine
    loads_as: str
    formats: frozenset[str]
    switches: tuple[str, ...]
    kernels: tuple[str, ...]

    def opening(self, found: Diagnosis) -> Opening:
        """What comes of opening a file with the loaders of this ComfyUI."""
        opening = next(each for each in found.openings if each.loader == self.loads_as)
        kinds = {each.group.kind for each in found.groups if each.group.kind.name in DESCRIBED}
        unknown = next((kind for kind in kinds if kind.family == "comfy" and kind.name not in self.formats), None)
        if not opening.opens or unknown is None:
            return replace(opening, loader="this ComfyUI")
        return Opening("this ComfyUI", "refuses", f"it does not know {unknown.label}", f"Update it, as to {NEW}")

    def as_dict(self) -> dict[str, object]:
        return {
            "version": self.version,
            "loads_as": self.loads_as,
            "formats": sorted(self.formats),
            "fast": list(self.switches),
            "kernels": list(self.kernels),
            "device": self.machine.as_dict(),
        }

    def __str__(self) -> str:
        switches = f"--fast {' '.join(self.switches)}" if self.switches else "without --fast"
        formats = ", ".join(sorted(self.formats)) or "none"
        lines = [
            f"ComfyUI {self.version} on {self.machine.name}, {switches}",
            f"  it multiplies {', '.join(sorted(self.machine.products)) or 'no codes'}",
            f"  its loaders know layers in {formats}",
            f"  HSWQ's kernels: {'; '.join(self.kernels)}",
        ]
        return "\n".join(lines)


def running_comfyui() -> RunningComfyUI:
    """This ComfyUI, as it was started."""
    device = comfy.model_management.get_torch_device()
    switches = tuple(sorted(str(getattr(each, "value", each)) for each in getattr(comfy.cli_args.args, "fast", ())))
    formats = frozenset(getattr(comfy.quant_ops, "QUANT_ALGOS", ()))
    return RunningComfyUI(
        version=comfyui_version.__version__,
        machine=_machine(device, _FP8_PRODUCT in switches),
        loads_as=NEW if _SINCE_COMFY_QUANT in formats else OLD,
        formats=formats,
        switches=switches,
        kernels=tuple(str(status) for status in list_kernels(device)),
    )


def _machine(device: torch.device, fast_fp8: bool) -> Machine:
    found = this_machine(device)
    products = set(found.products)
    for name, product in _SUPPORTS.items():
        supports = getattr(comfy.model_management, name, None)
        if supports is not None and not supports(device):
            products.discard(product)
    memory = float(comfy.model_management.get_total_memory(device)) if device.type == "cuda" else found.memory
    return replace(found, products=frozenset(products), memory=memory, fast_fp8=fast_fp8)
