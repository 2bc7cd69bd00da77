"""What the header of a mended file says, so that it is true of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from ...files.layers import WEIGHT
from ...files.modelspec import HASH, UNKNOWN_HASH, implementation_of
from ..contents import Contents
from ..family import family_of
from ..findings import Finding
from ..findings.claims import KIND_OF_FORM, KINDS_OF_MODE
from ..readers.described import HEADER
from .plan import RepairPlan

_MODE, _KEPT, _COUNTS = "hswq.mode", "hswq.kept_layers", "hswq.layers_by_form"
_OF_OTHER_BYTES = ("sshs_model_hash", "sshs_legacy_hash")
"""Hashes that other tools write, of tensors that the file no longer has."""


def true_header(
    contents: Contents, plan: RepairPlan, findings: Iterable[Finding], *, hash_is_stale: bool
) -> dict[str, str]:
    """The header's text after a repair. All that is true of the file stays as it is; so it is the same text, if nothing
    has changed.

    Args: hash_is_stale: whether the hash in the header is not that of the file's tensors.
    """
    found = dict(contents.metadata)
    if found.get("hswq.part", "unet") != "text_encoders":  # whose header says nothing of the diffusion model
        found = _true_claims(found, contents, plan)
    if any(finding.name == "architecture" for finding in findings):
        found["modelspec.architecture"] = family_of(contents)
        found["modelspec.implementation"] = implementation_of(family_of(contents))
    if HEADER in found:
        found[HEADER] = _described(found[HEADER], contents, plan)
    if plan.mends or plan.dropped or plan.added:
        found = {key: text for key, text in found.items() if key not in _OF_OTHER_BYTES}
        hash_is_stale = HASH in found
    return found | ({HASH: UNKNOWN_HASH} if hash_is_stale else {})


def _true_claims(said: dict[str, str], contents: Contents, plan: RepairPlan) -> dict[str, str]:
    """What a file of HSWQ says of its layers. One without quantized layers is not HSWQ's."""
    kinds = _kinds_after(contents, plan)
    if not kinds and _MODE in said:
        return {key: text for key, text in said.items() if not key.startswith("hswq.")}
    kept, found = _kept_after(contents, plan, kinds), {}
    if _MODE in said:
        found[_MODE] = _mode_of(said[_MODE], set(kinds.values()))
    if _KEPT in said and kept != _list_of(said[_KEPT]):
        found[_KEPT] = json.dumps(kept)
    if _COUNTS in said:
        found[_COUNTS] = _counts(said[_COUNTS], Counter(kinds.values()), len(kept))
    return said | found


def changed_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What a header says otherwise than before."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _kinds_after(contents: Contents, plan: RepairPlan) -> dict[str, str]:
    """The diffusion model's quantized layers, by their path in it."""
    found: dict[str, str] = {}
    for layer in contents.in_part("diffusion model"):
        mend = plan.layers.get(layer.name)
        kind = layer.kind if mend is None else mend.kind
        if kind is not None:
            found[contents.path_of(layer.name)] = kind.name
    return found


def _kept_after(contents: Contents, plan: RepairPlan, quantized: Mapping[str, str]) -> list[str]:
    """The kept layers in the order of the header, those that a repair has kept behind them."""
    said = _list_of(contents.metadata.get(_KEPT, ""))
    there = {contents.path_of(name) for name in contents.kept_in("diffusion model")}
    restored = {contents.path_of(key.removesuffix(WEIGHT)) for key in plan.others if key.endswith(WEIGHT)}
    named = sorted(there) if said is None else said
    lost = [contents.path_of(mend.name) for mend in plan.layers.values() if mend.kind is None]
    inside = {contents.path_of(layer.name) for layer in contents.in_part("diffusion model")}
    known = [path for path in named if path in there | restored | set(lost) and path not in quantized]
    return [*known, *(path for path in lost if path in inside and path not in known)]


def _list_of(text: str) -> list[str] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return [str(each) for each in found] if isinstance(found, list) else None


def _mode_of(said: str, kinds: set[str]) -> str:
    """The mode that files with layers of these kinds have; the one that is said where no other is known."""
    if kinds <= KINDS_OF_MODE.get(said, kinds):
        return said
    fitting = [mode for mode, known in KINDS_OF_MODE.items() if kinds <= known]
    return min(fitting, key=lambda mode: len(KINDS_OF_MODE[mode]), default=said)


def _counts(text: str, kinds: Mapping[str, int], kept: int) -> str:
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    form_of = {kind: form for form, kind in KIND_OF_FORM.items()}
    found = {form_of.get(kind, kind): count for kind, count in kinds.items()} | ({"kept": kept} if kept else {})
    return text if said == found else json.dumps(found)


def _described(text: str, contents: Contents, plan: RepairPlan) -> str:
    """ComfyUI's own list of quantized layers without those that are no longer."""
    gone = {mend.name for mend in plan.layers.values() if mend.kind is None}
    gone |= {contents.path_of(name) for name in gone}
    try:
        said = json.loads(text)
        left = {name: each for name, each in said["layers"].items() if name not in gone}
        return text if len(left) == len(said["layers"]) else json.dumps(said | {"layers": left})
    except (ValueError, TypeError, KeyError, AttributeError):
        return text
