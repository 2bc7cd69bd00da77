"""What was done to a checkpoint, for people and for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .calibration.coverage import coverage_notes, coverage_warnings
from .calibration.statistics import Statistics
from .planning.plan import QuantizationPlan
from .proof.sentence import Phrase, Verdict, verdict_of_error
from .rounding.weight import QuantizedWeight
from .sensitivity.exact import OutputErrors


@dataclass
class Losses:
    """What rounding lost, summed over layers.

    Attributes:
        error, plain_error: importance-weighted squared error of the weights, and of a plain cast's.
        rotated: how many layers' inputs are rotated.
        gains: of each layer with calibrated rounding, its squared output error over nearest rounding's.
        fallbacks: why a layer was rounded to nearest where it was to be calibrated.
    """

    error: float = 0.0
    plain_error: float = 0.0
    rotated: int = 0
    gains: list[float] = field(default_factory=list)
    fallbacks: dict[str, str] = field(default_factory=dict)

    def add(self, layer: str, result: QuantizedWeight) -> None:
        self.error += result.error
        self.plain_error += result.plain_error
        self.rotated += result.group > 1
        if result.gain is not None:
            self.gains.append(result.gain)
        if result.fallback:
            self.fallbacks[layer] = result.fallback


@dataclass(frozen=True)
class Report:
    """The file that was written.

    Attributes:
        plan: what was to be done, layer by layer.
        bytes: of the file.
        weighted_error: importance-weighted squared error of all quantized weights, as they were written.
        weighted_error_plain_cast: that of a plain cast of the same layers.
        calibrated_layers: layers whose rounding was calibrated.
        calibrated_gain: their squared output error over that of nearest rounding, on average.
        rotated_layers: layers whose inputs are rotated.
        fallbacks: why a layer was rounded to nearest where it was to be calibrated, by layer.
        notes: what is good to know, and nothing has to be done about.
        warnings: what something should be done about.
        measured: the error of the model's output on recorded images, with all layers as they are in the file; ``None``
            where nobody looked.
    """

    plan: QuantizationPlan
    file: Path
    bytes: int
    weighted_error: float
    weighted_error_plain_cast: float
    calibrated_layers: int
    calibrated_gain: float | None
    rotated_layers: int
    fallbacks: Mapping[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    measured: OutputErrors | None = None

    @staticmethod
    def of(plan: QuantizationPlan, statistics: Statistics | None, file: Path, losses: Losses) -> Report:
        gains = losses.gains
        return Report(
            plan=plan,
            file=file,
            bytes=plan.nbytes,
            weighted_error=losses.error,
            weighted_error_plain_cast=losses.plain_error,
            calibrated_layers=len(gains),
            calibrated_gain=sum(gains) / len(gains) if gains else None,
            rotated_layers=losses.rotated,
            fallbacks=losses.fallbacks,
            warnings=tuple(coverage_warnings(statistics)) if statistics else (),
            notes=(
                *(coverage_notes(statistics) if statistics else ()),
                *(f"layer {name} was rounded to nearest: {why}" for name, why in losses.fallbacks.items()),
            ),
        )

    @property
    def kept_layers(self) -> int:
        """How many layers are as they were."""
        return len(self.plan.kept)

    @property
    def quantized_layers(self) -> int:
        """How many layers are quantized."""
        return len(self.plan.quantized)

    @property
    def verdict(self) -> Verdict:
        """How close its images are expected to be, by what was measured or is predicted."""
        sizes = (self.plan.source.nbytes, self.bytes)
        if self.measured is None:
            return verdict_of_error(self.plan.predicted_error, None, sizes)
        each = self.measured.each
        template = "error of the output {0} on {1} recorded steps, worst {2}"
        basis: Phrase = (template, f"{self.measured.mean:.1e}", str(len(each)), f"{max(each):.1e}")
        return verdict_of_error(self.measured.mean, basis, sizes)

    @property
    def summary(self) -> str:
        """The file, its size and what is kept, in one line."""
        plan = self.plan
        return (
            f"{self.file.name}: {self.bytes / 1e6:,.1f} MB, {self.bytes / plan.source.nbytes:.1%} of the original; "
            f"{plan.layers_in_words}"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON. Sizes in bytes; ``unet`` is all tensors of the diffusion model."""
        plan, options = self.plan, self.plan.options
        return {
            "file": str(self.file),
            "bytes": self.bytes,
            "source_bytes": plan.source.nbytes,
            "unet_bytes": plan.unet_bytes,
            "source_unet_bytes": plan.source_unet_bytes,
            "other_bytes": plan.other_bytes,
            "mode": plan.format.name,
            "keep_ratio": plan.keep_ratio,
            "budget": options.budget,
            "selection": options.selection,
            "rounding": options.rounding,
            "scales": plan.scales,
            "kept_layers": self.kept_layers,
            "quantized_layers": self.quantized_layers,
            "layers_by_form": plan.layers_by_form,
            "predicted_error": plan.predicted_error,
            "measured_error": self.measured.mean if self.measured else None,
            "measured_error_range": [min(self.measured.each), max(self.measured.each)] if self.measured else None,
            "weighted_error": self.weighted_error,
            "weighted_error_plain_cast": self.weighted_error_plain_cast,
            "calibrated_layers": self.calibrated_layers,
            "calibrated_gain": self.calibrated_gain,
            "rotated_layers": self.rotated_layers,
            "rounded_to_nearest": dict(self.fallbacks),
            "kept": {layer.layer: layer.reason for layer in plan.kept},
            "verdict": self.verdict.text,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        plan = self.plan
        counts = Counter(layer.reason for layer in plan.kept)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        kept = f" ({reasons})" if reasons else ""
        lines = [
            str(self.file),
            f"  size     {self.bytes / 1e6:,.1f} MB of {plan.source.nbytes / 1e6:,.1f} MB "
            f"({self.bytes / plan.source.nbytes:.1%}); diffusion model {plan.unet_bytes / plan.source_unet_bytes:.1%}",
            f"  layers   {plan.count_in_words()}{kept}",
            f"  error    {self._error()}",
            f"  verdict  {self.verdict.text}",
        ]
        if plan.options.rotate:
            lines.append(f"  rotated  the inputs of {self.rotated_layers} of {self.quantized_layers} layers")
        if plan.other_bytes > plan.source_unet_bytes / 100:
            lines.insert(
                3, f"  other    {plan.other_bytes / 1e6:,.1f} MB of matrices that are no layers stay as they are"
            )
        lines += [f"  note     {note}" for note in self.notes]
        return "\n".join([*lines, *(f"  warning  {warning}" for warning in self.warnings)])

    def _error(self) -> str:
        of_output = []
        if self.plan.predicted_error is not None:
            of_output.append(f"{self.plan.predicted_error:.2g}, as predicted by the layers' impacts")
        if self.measured is not None:
            least, most = min(self.measured.each), max(self.measured.each)
            of_output.append(f"{self.measured.mean:.2g} on recorded steps, of which each has {least:.1g} to {most:.1g}")
        if of_output:
            return f"of the model's output {'; '.join(of_output)}"
        if self.calibrated_gain is not None:
            return f"layer outputs {self.calibrated_gain:.2f} of nearest rounding ({self.calibrated_layers} layers)"
        plain = self.weighted_error_plain_cast
        return f"weights {self.weighted_error / plain if plain else 1.0:.2f} of a plain cast to FP8"
