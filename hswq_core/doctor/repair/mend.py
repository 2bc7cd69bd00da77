"""Writes the mended file: what is whole streams through, and one layer at a time is in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import CheckpointError, PlanError
from ...files.checkpoint import CheckpointReader
from ...files.dtypes import dtype_name, tensor_bytes
from ...files.modelspec import HASH
from ...files.writer import CheckpointWriter, FileLayout, check_not_source, check_target
from ...progress import Progress, no_progress
from ..contents import Contents, opened
from ..findings import findings_of
from ..readers.gguf_file import is_gguf
from .header import changed_keys, true_header
from .lost import Mend
from .original import Original
from .plan import RepairPlan, layer_again, make_repair_plan


@dataclass(frozen=True)
class Repair:
    """What was done.

    Attributes:
        file: the new one.
        mends: by layer, or by tensor where it is of no layer.
        dropped: tensors that meant nothing, and ``added`` marks that readers look for.
        header: what its header says otherwise than before.
        findings: the names of what was wrong before.
    """

    file: Path
    bytes: int
    mends: tuple[Mend, ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    header: tuple[str, ...]
    findings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        mends = [
            {"name": m.name, "how": m.how, "error_before": m.before, "error_after": m.after} for m in self.mends
        ]  # fmt: skip
        return {**asdict(self), "file": str(self.file), "mends": mends}

    def __str__(self) -> str:
        counts = Counter(mend.how for mend in self.mends)
        done = [f"{how}: {count}" for how, count in counts.most_common()]
        done += [f"left out: {len(self.dropped)}"] if self.dropped else []
        done += [f"marks added: {len(self.added)}"] if self.added else []
        done += [f"in the header: {', '.join(self.header)}"] if self.header else []
        lines = [f"{self.file}: {self.bytes / 1e6:,.1f} MB; {'; '.join(done)}"]
        return "\n".join([*lines, *(f"  {_line(mend)}" for mend in self.mends)])


def _line(mend: Mend) -> str:
    before = "unreadable" if mend.before is None else f"{mend.before:.2e}"
    return f"{mend.name}: {mend.how} (error {before}, now {mend.after:.2e})"


def repair(
    file: Path, original: Path, target: Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> Repair:
    """Write a copy of a damaged file in which everything that the original tells is mended.

    Lost kept layers come from the original as they are there; scales are those that bring the codes nearest to the
    original's weights; a layer whose codes are lost is quantized again in its own format, or comes from the original;
    and the header says what is true. All else is the same to the byte.

    Args:
        original: the unquantized model that the file was made from.
        progress: called with layers looked at, then with bytes written.

    Errors: CheckpointError for files that cannot be read, an original of another model, and damage that cannot be
    mended; PlanError where there is nothing to mend; TargetError as for quantizing. Nothing is written then.
    """
    check_not_source(target, file)
    check_not_source(target, original, "original")
    check_target(target, overwrite=overwrite)
    if is_gguf(original):
        raise CheckpointError(
            "the original is a GGUF file", where=original, remedy="Give the model in safetensors, in 16 or 32 bits"
        )
    with opened(file) as contents, CheckpointReader(original) as source:
        _check(contents)
        findings = findings_of(contents)
        plan = make_repair_plan(contents, known := Original.of(contents, source), findings, progress)
        header = true_header(contents, plan, findings, hash_is_stale=_hash_is_stale(contents))
        said = changed_keys(contents.metadata, header)
        if not (plan.mends or plan.dropped or plan.added or said):
            raise PlanError(f"there is nothing to mend in {file}", remedy="Use it as it is")
        size = _write(contents, known, plan, target, header, progress, overwrite=overwrite)
    names = tuple(dict.fromkeys(finding.name for finding in findings))
    return Repair(target, size, tuple(plan.mends), tuple(plan.dropped), tuple(plan.added), tuple(said), names)


def _check(contents: Contents) -> None:
    if contents.source is None:
        raise CheckpointError(
            "GGUF files cannot be mended here", where=contents.path, remedy="Convert the original again"
        )
    if "hswq.source_patches" in contents.metadata:
        raise CheckpointError(
            "it was quantized with a LoRA on top of its original, which the original's file does not have",
            where=contents.path, remedy="Quantize the model again",
        )  # fmt: skip


def _hash_is_stale(contents: Contents) -> bool:
    """Whether the header has a hash that is not that of the tensors, in the order in which they are in the file."""
    said = contents.metadata.get(HASH)
    if said is None:
        return False
    assert contents.source is not None
    hashed = hashlib.sha256()
    for key in sorted(contents.tensors, key=lambda key: contents.tensors[key].begin):
        for chunk in contents.source.chunks(key):
            hashed.update(chunk)
    return said.removeprefix("0x") != hashed.hexdigest()


def _write(
    contents: Contents,
    original: Original,
    plan: RepairPlan,
    target: Path,
    header: dict[str, str],
    progress: Progress,
    *,
    overwrite: bool,
) -> int:
    """Returns the bytes of the file."""
    assert contents.source is not None
    layout = {key: (info.dtype, info.shape) for key, info in contents.tensors.items() if key not in plan.dropped}
    for mend in plan.layers.values():
        layer = contents.layers[mend.name]
        for key in (layer.codes, *layer.side):
            layout.pop(key, None)
    for mend in plan.mends:
        layout |= mend.layout
    layout |= {key: (dtype_name(value.dtype), tuple(value.shape)) for key, value in plan.added.items()}
    output = FileLayout(layout, header)
    done = 0
    with CheckpointWriter(target, output, overwrite=overwrite) as writer:
        for key, chunks in _all_tensors(contents, original, plan, layout):
            progress(done, output.nbytes)
            writer.write(key, chunks)
            begin, end = output.spans[key]
            done += end - begin
        contents.source.check_unchanged()
        original.source.check_unchanged()
    progress(output.nbytes, output.nbytes)
    return output.nbytes


def _all_tensors(
    contents: Contents, original: Original, plan: RepairPlan, layout: dict[str, tuple[str, tuple[int, ...]]]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every tensor's bytes by its name: those that are whole in the order of the file, then what was mended."""
    source = contents.source
    assert source is not None
    new = {key for mend in plan.mends for key in mend.layout} | plan.added.keys()
    for key in sorted(layout.keys() - new, key=lambda key: contents.tensors[key].begin):
        yield key, source.chunks(key)
    for key in plan.others:
        there = original.key(key)
        assert there is not None
        yield key, original.source.chunks(there)
    for mend in plan.layers.values():
        for key, value in layer_again(contents, original, plan, mend).items():
            yield key, iter([tensor_bytes(value)])
    for key, value in plan.added.items():
        yield key, iter([tensor_bytes(value)])
