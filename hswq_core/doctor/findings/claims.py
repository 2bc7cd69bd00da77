"""Whether the tensors bear out what the header says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..contents import Contents
from ..family import family_of
from ..json_text import names_in, parsed
from ..kinds import HSWQ_PACKED
from .finding import AGAIN, Finding, together

KINDS_OF_MODE = {
    "v1": {"fp8"},
    "v2": {"v2"},
    "comfy": {"float8_e4m3fn"},
    "int8": {"int8"},
    "comfy-int8": {"int8_tensorwise"},
    "mixed": {"int8", *HSWQ_PACKED},
    "comfy-mixed": {"nvfp4", "int8_tensorwise"},
}
_TOLD_BY_SHAPES = ("stable-diffusion-", "flux-")
KIND_OF_FORM = {name.removeprefix("hswq_"): name for name in HSWQ_PACKED}


def check_claims(contents: Contents) -> Iterator[Finding]:
    """By the header alone."""
    yield from _mode(contents)
    yield from _kept(contents)
    yield from _counts(contents)
    said, found = contents.metadata.get("modelspec.architecture", ""), family_of(contents)
    # What is told by names alone may be called otherwise.
    told = said.startswith(_TOLD_BY_SHAPES) and found.startswith(_TOLD_BY_SHAPES)
    if told and not said.startswith(found) and not found.startswith(said):
        what = f"the header says the architecture is {said}, and the tensors are those of {found}"
        yield Finding("architecture", False, what, "Tools that go by the header will be wrong")


def _mode(contents: Contents) -> Iterator[Finding]:
    mode = contents.metadata.get("hswq.mode", "")
    found = {layer.kind.name for layer in contents.in_part("diffusion model")}
    if mode in KINDS_OF_MODE and contents.metadata.get("hswq.part", "unet") != "text_encoders":
        if other := sorted(found - KINDS_OF_MODE[mode]):
            what = f"the header says that the file is {mode}, and layers are {', '.join(other)}"
            yield Finding("mode", True, what, AGAIN)
        elif not found:
            yield Finding("mode", True, f"the header says that the file is {mode}, and no layer is quantized", AGAIN)


def _kept(contents: Contents) -> Iterator[Finding]:
    if "hswq.kept_layers" not in contents.metadata:
        return
    kept = names_in(contents.metadata["hswq.kept_layers"])
    if kept is None:
        what = "hswq.kept_layers in the header is not a list of names"
        yield Finding("metadata", False, what, "Quantize the model again")
        return
    quantized = {contents.path_of(layer.name): layer for layer in contents.in_part("diffusion model")}
    yield from together(
        "kept-quantized", "the header says that layers are kept, and they are quantized", AGAIN,
        [quantized[name].name for name in kept if name in quantized],
    )  # fmt: skip
    there = {contents.path_of(name) for name in contents.kept} | quantized.keys()
    missing = [name for name in dict.fromkeys(kept) if name not in there]
    yield from together("layer-missing", "the header names layers that are not there", AGAIN, missing)


def _counts(contents: Contents) -> Iterator[Finding]:
    said = parsed(contents.metadata.get("hswq.layers_by_form", "{}"))
    if not isinstance(said, dict) or not all(type(count) is int for count in said.values()):
        what = "hswq.layers_by_form in the header is not a table of counts"
        yield Finding("metadata", False, what, "Quantize the model again")
        return
    if not said:
        return
    found = Counter(layer.kind.name for layer in contents.in_part("diffusion model"))
    wanted = {KIND_OF_FORM.get(str(form), str(form)): count for form, count in said.items() if form != "kept"}
    for kind in sorted(wanted.keys() | found.keys()):
        if wanted.get(kind, 0) != found[kind]:
            what = f"the header says that {wanted.get(kind, 0)} layers are {kind}, and {found[kind]} are"
            yield Finding("layer-count", True, what, AGAIN)
