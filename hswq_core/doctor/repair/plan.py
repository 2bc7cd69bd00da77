"""What is to be done with every tensor of a damaged file, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ...errors import CheckpointError
from ...files.dtypes import TORCH_DTYPES, dtype_name, is_float
from ...files.layers import WEIGHT
from ...formats import FORMATS
from ...progress import Progress
from ..contents import Contents
from ..findings import Finding
from ..findings.finding import AGAIN
from ..kinds import FP8, FP8_E5M2, SCALED_FP8
from ..readers.eight_bits import MARK
from .layer import Mended, mended
from .lost import NOISE, Mend, lost_tensor
from .original import Original

_CAST = 1e-2
"""What rounding to FP8 stays below."""
_CODES_ARE_WELL = ("scales recomputed", "described again")


@dataclass
class RepairPlan:
    """Attributes:
    layers: quantized ones, by name.
    others: tensors that come from the original as they are there, by name: weights of kept layers, and the rest.
    dropped: tensors that mean nothing.
    added: marks that readers look for.
    compared: how many layers were held against the original, and ``strange`` those of them that have nothing of it.
    among_scaled: whether layers have scales, or had.
    """

    layers: dict[str, Mend] = field(default_factory=dict)
    others: dict[str, Mend] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    added: dict[str, torch.Tensor] = field(default_factory=dict)
    compared: int = 0
    strange: list[str] = field(default_factory=list)
    among_scaled: bool = False

    @property
    def mends(self) -> list[Mend]:
        return [*self.layers.values(), *self.others.values()]


def make_repair_plan(
    contents: Contents, original: Original, findings: Iterable[Finding], progress: Progress
) -> RepairPlan:
    """Holds every layer of the diffusion model against the original, and of other parts those in which something is
    wrong: they may be another model's.

    Errors: CheckpointError where most layers have nothing of the original, and for damage that cannot be mended.
    """
    findings = list(findings)
    _check_formats(contents, findings)
    wrong = {name for finding in findings for name in finding.layers}
    cast = {name for finding in findings if finding.name == "kept-quantized" for name in finding.layers}
    plan = RepairPlan(among_scaled=_has_scales(contents) or _had_scales(contents, findings))
    names = [*contents.layers, *contents.kept]
    for number, name in enumerate(names):
        progress(number, len(names))
        if contents.part_of(name) == "diffusion model" or name in wrong:
            _look(plan, contents, original, name, is_kept=name in cast)
        elif name in contents.layers and contents.metadata.get("hswq.part") == "unet":
            _look_elsewhere(plan, contents, original, name)
    progress(len(names), len(names))
    if 2 * len(plan.strange) > plan.compared:
        raise CheckpointError(
            f"{len(plan.strange)} of {plan.compared} layers have nothing of the original in them, as {plan.strange[0]}",
            where=contents.path,
            remedy="Give the model that it was made from; if this is it, quantize it again",
        )
    _look_at_the_rest(plan, contents, original)
    _look_beside(plan, findings, original)
    _check_all_is_mended(plan, contents, original, findings)
    return plan


def _check_formats(contents: Contents, findings: Iterable[Finding]) -> None:
    """Errors: CheckpointError for kinds of another tool that are not known: the file may be as it should be."""
    for finding in findings:
        if finding.name == "unknown-format" and "hswq.mode" not in contents.metadata:
            raise _not_mended(contents, finding, finding.layers[0])


def _has_scales(contents: Contents) -> bool:
    return any(layer.scale is not None for layer in contents.in_part("diffusion model"))


def _had_scales(contents: Contents, findings: Iterable[Finding]) -> bool:
    """Whether scales were removed: from one layer of many that are well without scales none was, its codes are lost."""
    stripped = {name for finding in findings if finding.name == "scale-stripped" for name in finding.layers}
    said = FORMATS.get(contents.metadata.get("hswq.mode", ""))
    if said is not None and said.form.scaling != "none":
        return bool(stripped)
    bare = sum(layer.kind in (FP8, FP8_E5M2) for layer in contents.in_part("diffusion model"))
    return bool(stripped) and 2 * len(stripped) >= bare


def layer_again(contents: Contents, original: Original, plan: RepairPlan, mend: Mend) -> dict[str, torch.Tensor]:
    """The tensors of a planned layer: a plan does not hold them, since they may be most of the file."""
    weight = original.weight(mend.name)
    assert weight is not None
    found = mended(
        contents, contents.layers[mend.name], weight, is_kept=mend.kind is None, among_scaled=plan.among_scaled
    )
    assert found is not None
    return found.tensors


def _look(plan: RepairPlan, contents: Contents, original: Original, name: str, *, is_kept: bool) -> None:
    weight = original.weight(name)
    if weight is None:
        return
    plan.compared += 1
    layer = contents.layers.get(name)
    if layer is None:
        found = lost_tensor(contents, original, name + WEIGHT)
        if found is not None:
            plan.others[name + WEIGHT] = found
        before = found.before if found else 0.0
        strange = before is None or before > NOISE
    else:
        new = mended(contents, layer, weight, is_kept=is_kept, among_scaled=plan.among_scaled)
        if new is not None:
            plan.layers[name] = _mend(name, new)
        strange = new is not None and new.how not in _CODES_ARE_WELL and (new.before is None or new.before > NOISE)
    if strange:
        plan.strange.append(name)


def _look_elsewhere(plan: RepairPlan, contents: Contents, original: Original, name: str) -> None:
    """A layer of a text encoder or the VAE that HSWQ has not quantized: the original's, if it is this one cast."""
    weight = original.weight(name)
    if weight is not None and weight.shape == contents.layers[name].shape:
        new = mended(contents, contents.layers[name], weight, is_kept=True, among_scaled=True)
        if new is not None and new.before is not None and new.before < _CAST:
            plan.layers[name] = _mend(name, new)


def _mend(name: str, found: Mended) -> Mend:
    layout = {key: (dtype_name(value.dtype), tuple(value.shape)) for key, value in found.tensors.items()}
    return Mend(name, found.how, found.before, found.after, found.kind, layout)


def _look_at_the_rest(plan: RepairPlan, contents: Contents, original: Original) -> None:
    """Norms, biases, and what is missing."""
    by_hswq = "hswq.mode" in contents.metadata  # other tools put all of a model in FP8, which is no damage
    rest = [
        key
        for key, info in contents.tensors.items()
        if key not in contents.taken
        and key.removesuffix(WEIGHT) not in contents.kept
        and contents.part_of(key) == "diffusion model"
        and (is_float(info.dtype) or by_hswq)
    ]
    for key in (*rest, *original.missing()):
        found = lost_tensor(contents, original, key)
        if found is not None:
            plan.others[key] = found


def _look_beside(plan: RepairPlan, findings: Iterable[Finding], original: Original) -> None:
    """Marks and scales that belong to nothing, and marks that are missing."""
    for finding in findings:
        if finding.name in ("scale-orphan", "marker-without-scales"):
            scaled = any(mend.kind is not None and mend.kind.name == SCALED_FP8.name for mend in plan.layers.values())
            if finding.name == "scale-orphan" or not scaled:
                plan.dropped += [key for key in finding.layers if original.key(key) is None]
        elif finding.name == "scales-without-marker":
            contents = original.contents
            dtype = contents.tensors[contents.layers[finding.layers[0]].codes].dtype
            # Of two elements it says that inputs are not to be rounded, which harms nobody.
            plan.added[f"{contents.prefix}{MARK}"] = torch.zeros(2, dtype=TORCH_DTYPES[dtype])


_OF_THE_HEADER = ("mode", "layer-count", "layer-missing", "architecture", "metadata")
_BESIDE = ("scale-orphan", "marker-without-scales", "scales-without-marker")


def _check_all_is_mended(plan: RepairPlan, contents: Contents, original: Original, findings: Iterable[Finding]) -> None:
    """Errors: CheckpointError for what is wrong and is in no plan: nothing else knows the layer as it should be."""
    for finding in findings:
        elsewhere = [name for name in finding.layers if not name.startswith(contents.prefix)]
        if finding.name == "scales-without-marker" and elsewhere:
            raise _not_mended(contents, finding, elsewhere[0])
        if not finding.is_error or finding.name in (*_OF_THE_HEADER, *_BESIDE, "unknown-format"):
            continue
        for name in finding.layers:
            layer = contents.layers.get(name)
            unread = layer is not None and layer.decode is None and name not in plan.layers
            if unread or original.key(name + WEIGHT) is None:
                raise _not_mended(contents, finding, name)


def _not_mended(contents: Contents, finding: Finding, name: str) -> CheckpointError:
    remedy = "Quantize the original again" if finding.remedy == AGAIN else finding.remedy
    return CheckpointError(f"this cannot be mended: {finding.what} ({name})", where=contents.path, remedy=remedy)
