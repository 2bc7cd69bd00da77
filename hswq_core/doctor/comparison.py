"""The error of a quantized file against its original, layer by layer; and the model's, predicted from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

_WORST = 8
_REASONS, _NAMES = 4, 3
"""How much is printed of what cannot be compared; JSON has all of it."""


@dataclass(frozen=True)
class LayerError:
    """Of one layer.

    Attributes:
        layer: its path in the diffusion model.
        weight: |W_q - W|^2 / |W|^2.
        output: E|(W_q - W) x|^2 / E|W x|^2 by the statistics; ``None`` without them.
        impact: of the layer on the model's output, predicted; ``None`` where no impact of it was measured.
    """

    layer: str
    weight: float
    output: float | None = None
    impact: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """With the original.

    Attributes:
        layers: of the diffusion model, by name in the file, those that changed.
        unchanged: how many are as they were.
        missing: layers of the file that the original does not have, and ``lacking`` those of the original that the
            file does not have.
        undecoded: layers without an error, with the reason: nothing here decodes them, or they are damaged.
        purposes: what the impacts were measured for that the prediction goes by.
        predicted: the relative squared error of the model's output; ``None`` where impacts are missing.
    """

    original: str
    layers: tuple[LayerError, ...]
    unchanged: int
    missing: tuple[str, ...]
    lacking: tuple[str, ...]
    undecoded: Mapping[str, str]
    purposes: tuple[str, ...] = ()
    predicted: float | None = None

    @property
    def worst(self) -> list[LayerError]:
        """By their impact, else by their outputs' error, else by their weights'."""
        return sorted(self.layers, key=_badness, reverse=True)[:_WORST]

    @property
    def mean_weight_error(self) -> float:
        """Over the layers that changed."""
        return sum(layer.weight for layer in self.layers) / max(1, len(self.layers))

    def as_dict(self) -> dict[str, object]:
        return {
            "original": self.original,
            "layers": {layer.layer: layer.as_dict() for layer in self.layers},
            "unchanged": self.unchanged,
            "missing": list(self.missing),
            "lacking": list(self.lacking),
            "undecoded": dict(self.undecoded),
            "mean_weight_error": self.mean_weight_error,
            "purposes": list(self.purposes),
            "predicted_error": self.predicted,
            "worst": [layer.layer for layer in self.worst],
        }

    def __str__(self) -> str:
        lines = [f"  error     of {len(self.layers)} layers' weights {self.mean_weight_error:.2e} on average, "]
        lines[0] += f"{self.unchanged} as in {self.original}"
        if self.predicted is not None:
            by = ", ".join(self.purposes)
            lines.append(f"            of the model's output {self.predicted:.2e}, predicted from impacts for {by}")
        lines += [f"            {line}" for line in self._uncompared()]
        if self.missing:
            lines.append(f"            {len(self.missing)} layers are not in the original, as {self.missing[0]}")
        if self.lacking:
            lines.append(f"            {len(self.lacking)} layers of the original are not here, as {self.lacking[0]}")
        lines += [f"  {'worst' if not n else '':<9} {_line(layer)}" for n, layer in enumerate(self.worst)]
        return "\n".join(lines)

    def _uncompared(self) -> list[str]:
        """A line for each reason, with some of the layers. Some reasons name a layer: there may be very many."""
        layers: dict[str, list[str]] = {}
        for name, why in self.undecoded.items():
            layers.setdefault(why, []).append(name)
        lines = [f"{len(names)} layers cannot be compared: {why} ({_some(names)})" for why, names in layers.items()]
        rest = len(self.undecoded) - sum(len(names) for names in list(layers.values())[:_REASONS])
        return lines[:_REASONS] + ([f"{rest} more cannot be compared, for other reasons"] if rest else [])


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _badness(layer: LayerError) -> tuple[float, float, float]:
    return (layer.impact or 0.0, layer.output or 0.0, layer.weight)


def _line(layer: LayerError) -> str:
    outputs = f", outputs {layer.output:.2e}" if layer.output is not None else ""
    impact = f", of the model's error {layer.impact:.1e}" if layer.impact is not None else ""
    return f"{layer.layer}: weights {layer.weight:.2e}{outputs}{impact}"
