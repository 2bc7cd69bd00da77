"""What the header of a mended file says, so that it is true of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...errors import CheckpointError
from ...files.layers import WEIGHT
from ...files.modelspec import HASH, UNKNOWN_HASH, implementation_of
from ...formats.stored_layer import LAYER_DIMENSIONS
from ..contents import Contents
from ..family import family_of
from ..findings import Finding
from ..findings.claims import KIND_OF_FORM, KINDS_OF_MODE
from ..json_text import names_in, parsed
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
    kept, found = _kept_after(contents, plan, kinds), dict[str, str]()
    if _MODE in said:
        found[_MODE] = _mode_of(said[_MODE], set(kinds.values()), contents.path)
    if _KEPT in said and kept != names_in(said[_KEPT]):
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
    """The layers of the diffusion model that are not quantized: in the order of the header, which is the original's,
    and behind them those that it does not name. A header that is true of a file without damage stays as it is.
    """
    said = names_in(contents.metadata.get(_KEPT, ""))
    lost = [mend.name for mend in plan.layers.values() if mend.kind is None]
    restored = [
        key.removesuffix(WEIGHT)
        for key, mend in plan.others.items()
        if key.endswith(WEIGHT) and len(mend.layout[key][1]) in LAYER_DIMENSIONS
    ]
    names = [*contents.kept, *lost, *restored]
    paths = {contents.path_of(name) for name in names if contents.part_of(name) == "diffusion model"}
    kept = sorted(paths - quantized.keys())
    known = [path for path in dict.fromkeys(said or ()) if path in kept]
    if said is not None and known == said and not (plan.mends or plan.dropped or plan.added):
        return known  # that it names fewer layers than are kept is no damage
    return [*known, *(path for path in kept if path not in known)]


def _mode_of(said: str, kinds: set[str], file: Path) -> str:
    """The mode that files with layers of these kinds have; the one that is said where it is not known what it means.

    Errors: CheckpointError for kinds that no mode has together.
    """
    if kinds <= KINDS_OF_MODE.get(said, kinds):
        return said
    fitting = [mode for mode, known in KINDS_OF_MODE.items() if kinds <= known]
    if not fitting:
        found = ", ".join(sorted(kinds))
        raise CheckpointError(
            f"this cannot be mended: the header says that the file is {said}, and layers are {found}",
            where=file, remedy="Quantize the original again",
        )  # fmt: skip
    return min(fitting, key=lambda mode: len(KINDS_OF_MODE[mode]))


def _counts(text: str, kinds: Mapping[str, int], kept: int) -> str:
    form_of = {kind: form for form, kind in KIND_OF_FORM.items()}
    found = {form_of.get(kind, kind): count for kind, count in kinds.items()} | ({"kept": kept} if kept else {})
    return text if parsed(text) == found else json.dumps(found)


def _described(text: str, contents: Contents, plan: RepairPlan) -> str:
    """ComfyUI's own list of quantized layers without those that are no longer."""
    gone = {mend.name for mend in plan.layers.values() if mend.kind is None}
    gone |= {contents.path_of(name) for name in gone}
    try:
        said = json.loads(text)
        left = {name: each for name, each in said["layers"].items() if name not in gone}
        return text if len(left) == len(said["layers"]) else json.dumps(said | {"layers": left})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return text
