"""The plan: a value that says for every layer what happens to it and why. Node, CLI and report share it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch

from ..files.dtypes import dtype_name, nbytes_of
from ..files.modelspec import THUMBNAIL
from ..files.source import FileIdentity, TensorSource
from ..files.writer import FileLayout
from ..formats import Form, Format
from ..options import QuantizeOptions
from ..version import __version__
from .layer import LayerPlan, layout_of

KEPT = "kept"


@dataclass(frozen=True)
class SizePoint:
    """A file that could be written instead: its bytes, its predicted error, and how many layers would be in what."""

    nbytes: int
    predicted_error: float
    layers_by_form: Mapping[str, int]


@dataclass(frozen=True)
class QuantizationPlan:
    """Everything that determines the output file, apart from the weights themselves.

    ``form`` is what its quantized layers are stored as. ``layout`` is the file that will be written: every tensor's
    type and shape by its key. ``base_metadata`` is what the source's header says, made true of that file. ``source`` is
    the file that the plan was made for, and that alone can be quantized by it. ``other_bytes`` are those of matrices in
    the diffusion model that belong to no layer, such as the weights of experts in one tensor: they stay as they are.
    ``predicted_error`` is the relative squared error of the model's output, the sum of the layers' impacts, where they
    were measured for what is written; ``sizes`` are then some of the files that could be written instead, and ``card``
    is the model card's file.
    """

    options: QuantizeOptions
    format: Format
    form: Form
    prefix: str
    layers: tuple[LayerPlan, ...]
    layout: Mapping[str, tuple[str, tuple[int, ...]]]
    source: FileIdentity
    base_metadata: Mapping[str, str]
    source_unet_bytes: int
    other_bytes: int
    source_fingerprint: str
    source_patches: str
    statistics_digest: str
    predicted_error: float | None = None
    sizes: tuple[SizePoint, ...] = ()
    card: SizePoint | None = None

    @property
    def kept(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if not layer.quantize]

    @property
    def quantized(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if layer.quantize]

    @property
    def largest_layer(self) -> int:
        """Weights of the largest layer that is quantized."""
        return max((layer.info.numel for layer in self.quantized), default=0)

    @property
    def keep_ratio(self) -> float | None:
        """The keep ratio, where nothing took its place."""
        return None if self.options.budget or self.format.menu else self.options.keep_ratio

    @property
    def scales(self) -> str:
        """What has a scale of its own: every ``tensor``, every output ``channel``, or nothing."""
        return "" if self.format.menu or self.form.scaling == "none" else self.form.scaling

    def with_layers(self, source: TensorSource, layers: Iterable[LayerPlan]) -> QuantizationPlan:
        """The same plan with these layers in place of its own."""
        changed = tuple(layers)
        return replace(self, layers=changed, layout=layout_of(source, changed))

    @property
    def extra_tensors(self) -> dict[str, torch.Tensor]:
        """What the format adds to the diffusion model's tensors, by name in the file."""
        return {f"{self.prefix}{name}": tensor for name, tensor in self.format.extra_tensors().items()}

    @property
    def full_layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every tensor of the file, by its key."""
        extra = self.extra_tensors.items()
        return {**self.layout, **{name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in extra}}

    @property
    def layers_by_form(self) -> dict[str, int]:
        """How many layers have each form, ``kept`` for those that stay as they are."""
        return dict(Counter(layer.form.name if layer.form else KEPT for layer in self.layers).most_common())

    def count_in_words(self, noun: str = "") -> str:
        """How many layers are in what, and how many are kept.

        Args:
            noun: what is counted, with a blank before it.
        """
        if self.format.menu:
            found = [f"{count} in {name}" for name, count in self.layers_by_form.items() if name != KEPT]
        else:
            found = [f"{len(self.quantized)}{noun} in {self.form.grid.name}"]
        return ", ".join([*found, f"{len(self.kept)} kept"])

    @property
    def layers_in_words(self) -> str:
        """The same for a line of its own, with the predicted error where there is one."""
        error = f", predicted error {self.predicted_error:.2g}" if self.predicted_error is not None else ""
        return (f"layers: {self.count_in_words()}" if self.format.menu else self.count_in_words(" layers")) + error

    @property
    def nbytes(self) -> int:
        """The exact size of the file that will be written."""
        return FileLayout(self.full_layout, self.metadata()).nbytes

    @property
    def unet_bytes(self) -> int:
        """The bytes of the diffusion model's tensors in that file."""
        return sum(nbytes_of(*spec) for key, spec in self.layout.items() if key.startswith(self.prefix))

    def metadata(self) -> dict[str, str]:
        """The output's header metadata: the source's as far as it is true, and what the file says of itself."""
        return {
            **self.base_metadata,
            "hswq.kind": "checkpoint",
            "hswq.format_version": "1",
            "hswq.mode": self.format.name,
            "hswq.keep_ratio": "" if self.keep_ratio is None else f"{self.keep_ratio:g}",
            "hswq.budget": self.options.budget,
            "hswq.selection": self.options.selection,
            "hswq.rounding": self.options.rounding,
            "hswq.scales": self.scales,
            "hswq.part": self.options.part,
            "hswq.kept_layers": json.dumps([layer.layer for layer in self.kept]),
            "hswq.statistics_fingerprint": self.statistics_digest,
            "hswq.source_fingerprint": self.source_fingerprint,
            "hswq.tool_version": __version__,
            **self.format.header([layer.stem for layer in self.quantized if len(layer.info.shape) == 2]),
            **({"hswq.source_patches": self.source_patches} if self.source_patches else {}),
            **self._bits_metadata(),
            **({} if self.predicted_error is None else {"hswq.predicted_error": f"{self.predicted_error:.3e}"}),
            **({"hswq.rotate": "true"} if self.options.rotate else {}),
            **({THUMBNAIL: self.options.thumbnail} if self.options.thumbnail else {}),
        }

    def _bits_metadata(self) -> dict[str, str]:
        """What the header says where every layer has its own bits."""
        if not self.format.menu:
            return {}
        found = {"hswq.layers_by_form": json.dumps(self.layers_by_form)}
        return found | ({"hswq.target": self.options.target} if self.options.target else {})

    def as_dict(self) -> dict[str, object]:
        """The plan for JSON, every layer with its reason."""
        return {
            "mode": self.format.name,
            "keep_ratio": self.keep_ratio,
            "budget": self.options.budget,
            "selection": self.options.selection,
            "rounding": self.options.rounding,
            "scales": self.scales,
            "part": self.options.part,
            "bytes": self.nbytes,
            "source_bytes": self.source.nbytes,
            "unet_bytes": self.unet_bytes,
            "source_unet_bytes": self.source_unet_bytes,
            "kept_layers": len(self.kept),
            "quantized_layers": len(self.quantized),
            "layers_by_form": self.layers_by_form,
            "predicted_error": self.predicted_error,
            "sizes": [asdict(point) for point in self.sizes],
            "model_card": asdict(self.card) if self.card else None,
            "layers": {
                layer.layer: {
                    "quantize": layer.quantize,
                    "form": layer.form.name if layer.form else None,
                    "reason": layer.reason,
                    "sensitivity": layer.sensitivity,
                }
                for layer in self.layers
            },
        }

    @property
    def summary(self) -> str:
        """Format, size and layers in one line."""
        size = f"{self.nbytes:,} bytes of {self.source.nbytes:,} ({self.nbytes / self.source.nbytes:.1%})"
        return f"{self.format.name}: {size}; {self.layers_in_words}"

    def __str__(self) -> str:
        lines = [f"{'quantize' if e.quantize else 'keep':<9}{e.layer}  ({e.reason})" for e in self.layers]
        return "\n".join([self.summary, *self._table_of_sizes(), *lines])

    def _table_of_sizes(self) -> list[str]:
        """Size, predicted error and layers of the files that could be written instead, a line each."""
        rows = [self._row(point) for point in self.sizes]
        card = [f"{self._row(self.card)}: the model card's"] if self.card else []
        return [f"{'bytes':>16}{'':>8}{'predicted error':>18}  layers", *rows, *card] if rows else []

    def _row(self, point: SizePoint) -> str:
        layers = ", ".join(f"{count} {name}" for name, count in point.layers_by_form.items())
        return f"{point.nbytes:>16,}{point.nbytes / self.source.nbytes:>8.1%}{point.predicted_error:>18.2e}  {layers}"
