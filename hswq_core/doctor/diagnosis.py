"""What the doctor says of a file, as one value: printed, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..sizes import size_in_words
from ..words import listed
from .actions import Action
from .comparison import Comparison
from .contents import Part
from .findings import Finding
from .groups import Group, Kept
from .machine import Machine
from .memory import Memory
from .openings import Opening


@dataclass(frozen=True)
class Examined:
    """A group of layers, and what is done with it. Attributes: actions: one for each loader that opens the file."""

    group: Group
    actions: tuple[Action, ...]

    def as_dict(self) -> dict[str, object]:
        group = self.group
        return {
            "part": group.part,
            "format": group.kind.name,
            "label": group.kind.label,
            "layers": len(group.layers),
            "convolutions": group.convolutions,
            "bytes": group.nbytes,
            "bits_a_weight": round(group.bits, 3),
            "scales": group.group,
            "rotated": group.rotated,
            "full_precision_product": group.exact,
            "names": [layer.name for layer in group.layers],
            "actions": [action.as_dict() for action in self.actions],
        }


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of a file.

    Attributes:
        container: "safetensors" or "gguf".
        family: ModelSpec's architecture, or what the names of tensors tell.
        parts: what is in it, with the bytes of each.
        groups: of quantized layers.
        kept: layers that are not quantized, and ``kept_actions`` what is done with the diffusion model's.
        step_times: milliseconds of a step by a model, where it reaches (see ``step_time.py``).
        findings: what is wrong, errors first.
        comparison: with the original, where one was given.
    """

    file: str
    container: str
    nbytes: int
    family: str
    parts: dict[Part, int]
    groups: tuple[Examined, ...]
    kept: tuple[Kept, ...]
    kept_actions: tuple[Action, ...]
    openings: tuple[Opening, ...]
    machine: Machine
    memory: tuple[Memory, ...]
    step_times: Mapping[str, int]
    findings: tuple[Finding, ...]
    metadata: dict[str, str]
    comparison: Comparison | None = None

    @property
    def formats(self) -> list[str]:
        """Those of the first part's layers, which is the diffusion model where there is one; most bytes first."""
        return self._formats_of(next(iter(self.parts)))

    def _formats_of(self, part: Part) -> list[str]:
        sizes: dict[str, int] = {}
        for each in self.groups:
            if each.group.part == part:
                label = each.group.kind.label
                sizes[label] = sizes.get(label, 0) + each.group.nbytes
        return sorted(sizes, key=lambda label: -sizes[label])

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_error]

    @property
    def verdict(self) -> str:
        """In one sentence: what it is, and whether it is well."""
        what = f"{self.family}, " if self.family != "unknown" else ""
        what += listed(self.formats) or "not quantized"
        others = {part: listed(self._formats_of(part)) for part in list(self.parts)[1:]}
        what += "".join(f", {part} in {formats}" for part, formats in others.items() if formats)
        opens = [opening.loader for opening in self.openings if opening.opens]
        noise = [opening.loader for opening in self.openings if opening.outcome == "noise"]
        opened = f"opened by {listed(opens)}" if opens else "no loader that is known opens it"
        opened += f", noise in {listed(noise)}" if noise else ""
        state = "; ".join(finding.what for finding in self.errors)
        return f"{what}; {opened}" + (f"; DAMAGED: {state}" if state else "")

    def as_dict(self) -> dict[str, object]:
        return {
            "file": self.file,
            "verdict": self.verdict,
            "container": self.container,
            "bytes": self.nbytes,
            "architecture": self.family,
            "parts": {
                part: {
                    "bytes": size,
                    "formats": sorted({e.group.kind.name for e in self.groups if e.group.part == part}),
                }
                for part, size in self.parts.items()
            },
            "groups": [each.as_dict() for each in self.groups],
            "kept": [{"part": k.part, "layers": k.layers, "dtypes": k.dtypes, "bytes": k.nbytes} for k in self.kept],
            "kept_actions": [action.as_dict() for action in self.kept_actions],
            "openings": [opening.as_dict() for opening in self.openings],
            "machine": self.machine.as_dict(),
            "memory": [each.as_dict() for each in self.memory],
            "modelled_step_ms": dict(self.step_times),
            "findings": [finding.as_dict() for finding in self.findings],
            "metadata": self.metadata,
            "comparison": self.comparison.as_dict() if self.comparison else None,
        }

    def __str__(self) -> str:
        lines = [self.file, f"  {self.verdict}", ""]
        lines += _block("wrong", [str(finding) for finding in self.errors] or ["nothing was found"])
        lines += _block("note", [str(finding) for finding in self.findings if not finding.is_error])
        lines += _block("parts", [f"{part}, {size_in_words(size)}" for part, size in self.parts.items()])
        lines += _block("layers", [_line(each.group) for each in self.groups])
        lines += _block("kept", [f"{k.part}: {_types(k)}, {size_in_words(k.nbytes)}" for k in self.kept])
        lines += _block("opened", _together({opening.loader: str(opening) for opening in self.openings}))
        lines += _block(self.machine.name, self._done())
        lines += _block("memory", _together({each.loader: each.amount for each in self.memory}))
        if self.step_times:
            times = ", ".join(f"{time} ms {compute}" for compute, time in self.step_times.items())
            lines += _block("a step", [f"{times}, at 1024 x 1024 with guidance: by a model, not measured"])
        return "\n".join([*lines, *(str(self.comparison).splitlines() if self.comparison else [])])

    def _done(self) -> list[str]:
        """What the machine does with the first part."""
        lines = []
        for each in self.groups:
            if each.group.part == next(iter(self.parts), None):
                lines += _by_what_is_done(str(each.group), each.actions)
        return lines + _by_what_is_done("kept layers", self.kept_actions)


def _by_what_is_done(what: str, actions: tuple[Action, ...]) -> list[str]:
    """A line for what loaders do, with those that do the same."""
    lines = _together({action.loader: str(action) for action in actions})
    return [what, *(f"  {line}" for line in lines)] if lines else []


def _together(said: dict[str, str]) -> list[str]:
    """What is said of loaders, those of which the same is said in one line."""
    loaders: dict[str, list[str]] = {}
    for loader, what in said.items():
        loaders.setdefault(what, []).append(loader)
    return [f"{listed(names)}: {what}" for what, names in loaders.items()]


_WIDTH = 9


def _block(name: str, lines: list[str]) -> list[str]:
    """Lines under a name, which stands beside the first."""
    if not lines:
        return []
    if len(name) > _WIDTH:
        return [f"  {name}", *(f"  {'':{_WIDTH}} {line}" for line in lines)]
    return [f"  {name if not number else '':{_WIDTH}} {line}" for number, line in enumerate(lines)]


def _line(group: Group) -> str:
    rotated = ", rotated" if group.rotated else ""
    size = f"{len(group.layers)} in {group}, {group.scales}{rotated}, {group.bits:.2f} bits a weight"
    return f"{group.part}: {size}, {size_in_words(group.nbytes)}"


def _types(kept: Kept) -> str:
    return listed([f"{count} in {dtype}" for dtype, count in kept.dtypes.items()])
