"""What the headers of the checkpoints say against a recipe: found before the first task, not after hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hswq_core.errors import CheckpointError, HSWQError, PlanError, printable
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.layers import find_layers
from hswq_core.files.names import check_name
from hswq_core.files.source import TensorSource
from hswq_core.files.text_encoders import TEXT_ENCODERS, text_encoder_layers
from hswq_core.options import QuantizeOptions
from hswq_core.planning.budget import check_budget
from hswq_core.planning.candidates import matching
from hswq_core.planning.source_check import check_source

from .lines import Mistake


def mistakes_in_headers(checkpoints: Iterable[Path], outputs: Sequence[QuantizeOptions]) -> list[Mistake]:
    """Every checkpoint that cannot be calibrated or quantized, and every output that cannot be made of one."""
    return [mistake for path in checkpoints for mistake in _of_checkpoint(path, outputs)]


def has_text_encoder(checkpoint: Path) -> bool:
    """Whether a checkpoint brings what prompts need: a diffusion model alone does not. Errors: CheckpointError."""
    with CheckpointReader(checkpoint) as reader:
        return _has_text_encoder(reader)


def _of_checkpoint(path: Path, outputs: Sequence[QuantizeOptions]) -> Iterator[Mistake]:
    name = printable(path.name)
    try:
        with CheckpointReader(path) as reader:
            _check_source(reader)
            for index, options in enumerate(outputs):
                for key, check in _CHECKS.items():
                    try:
                        check(reader, options)
                    except HSWQError as error:
                        yield ("outputs", index, key), f"{name}: {error.what}"
    except HSWQError as error:
        yield ("checkpoints",), f"{name}: {error.what}"


def _check_source(reader: CheckpointReader) -> None:
    check_name(reader.path)
    check_source(find_layers(reader), None)
    if not _has_text_encoder(reader):
        raise CheckpointError(
            "a diffusion model alone has no text encoder to calibrate with",
            where=reader.path,
            remedy="Calibrate it in ComfyUI's page, or give a whole checkpoint",
        )


def _has_text_encoder(source: TensorSource) -> bool:
    return any(key.startswith(TEXT_ENCODERS) for key in source.tensors)


def _check_part(source: TensorSource, options: QuantizeOptions) -> None:
    if options.part != "unet" and not text_encoder_layers(source, alone=False):
        raise PlanError("no layer of its text encoders can be quantized", remedy="Choose another part")


def _matches(key: str) -> Callable[[TensorSource, QuantizeOptions], None]:
    def check(source: TensorSource, options: QuantizeOptions) -> None:
        layers = {} if options.part == "text_encoders" else find_layers(source).weights
        matching(getattr(options, key), layers)

    return check


def _fits(source: TensorSource, options: QuantizeOptions) -> None:
    check_budget(source, replace(options, force_keep=()))  # a pattern that matches nothing is a mistake of its own


_CHECKS: dict[str, Callable[[TensorSource, QuantizeOptions], None]] = {
    "part": _check_part,
    "force_keep": _matches("force_keep"),
    "force_quantize": _matches("force_quantize"),
    "budget": _fits,
}
