"""The dual monitor: forward hooks that measure every Linear and Conv2d of a torch module tree.

Sums stay on the model's device and are never read inside a step, so a GPU is not made to wait. They are
turned into statistics once, when the run is over.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from .statistics import LayerStatistics, Statistics


def quantizable_layers(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers HSWQ can quantize, with their module paths: Linear and ungrouped Conv2d.

    They are recognised by what they hold, not by class, since mixed-precision loaders bring their own
    Linear classes that are no ``torch.nn.Linear``.
    """
    for name, module in root.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        linear = weight.dim() == 2 and hasattr(module, "in_features")
        conv = weight.dim() == 4 and hasattr(module, "in_channels") and not getattr(module, "transposed", False)
        if linear or (conv and getattr(module, "groups", 1) == 1):
            yield name, module


class DualMonitor:
    """Attached for exactly one sampling run, as a context manager.

    Args:
        root: the diffusion model; layers are named by their path in it.
        rows_per_layer: how many input rows to keep of each layer, drawn uniformly from all that pass; 0 for none.
        seed: of that draw.
    """

    def __init__(self, root: torch.nn.Module, rows_per_layer: int = 0, seed: int = 0) -> None:
        self._root = root
        self._rows_per_layer = rows_per_layer
        self._generator = torch.Generator().manual_seed(seed)
        self._layers: dict[str, _LayerSums] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._previous: _SharedInput | None = None

    def __enter__(self) -> DualMonitor:
        for name, module in quantizable_layers(self._root):
            weight: Any = module.weight
            sums = _LayerSums(is_conv=weight.dim() == 4, rows=self._rows_per_layer)
            self._layers[name] = sums
            self._handles.append(module.register_forward_hook(self._hook(sums)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._previous = None

    def statistics(self) -> Statistics:
        """What the run measured, on the CPU: the only moment at which the device is read."""
        layers = {name: sums.finish() for name, sums in self._layers.items() if sums.input_rows}
        return Statistics(layers=layers)

    def _hook(self, sums: _LayerSums) -> Any:
        def measure(_module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            x = args[0]
            previous = self._previous
            # to_q, to_k and to_v receive the very same tensor one after the other: measure it once.
            if previous is None or not previous.is_of(x, sums.is_conv):
                previous = self._previous = _SharedInput(x, sums.is_conv)
            sums.add(x, previous, output.detach(), self._generator)

        return measure


class _SharedInput:
    """Per-channel sums of one input tensor: float32 [3, C_in] = sum |x|, sum x, sum x^2."""

    def __init__(self, x: torch.Tensor, is_conv: bool) -> None:
        self._tensor = weakref.ref(x)
        self._is_conv = is_conv
        self.reservoir: _Reservoir | None = None
        x = x.detach()
        channel = x.dim() - 3 if is_conv else x.dim() - 1
        self.rows = x.numel() // x.shape[channel] if x.numel() else 0
        over = [d for d in range(x.dim()) if d != channel]
        if not over:  # a single vector: every channel was seen once
            wide = x.float()
            self.sums = torch.stack([wide.abs(), wide, wide.square()])
            return
        # The norms reduce in float32 without writing |x| or x^2 to memory first.
        absolute = torch.linalg.vector_norm(x, ord=1, dim=over, dtype=torch.float32)
        norm = torch.linalg.vector_norm(x, ord=2, dim=over, dtype=torch.float32)
        self.sums = torch.stack([absolute, x.sum(dim=over, dtype=torch.float32), norm.square_()])

    def is_of(self, x: torch.Tensor, is_conv: bool) -> bool:
        return self._tensor() is x and self._is_conv == is_conv


class _LayerSums:
    """The running sums of one layer, on its device."""

    def __init__(self, is_conv: bool, rows: int) -> None:
        self.is_conv = is_conv
        self.input_rows = 0
        self._outputs = 0
        self._reservoir = _Reservoir(rows) if rows else None
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def add(self, x: torch.Tensor, shared: _SharedInput, y: torch.Tensor, generator: torch.Generator) -> None:
        norm = torch.linalg.vector_norm(y, ord=2, dtype=torch.float32)
        output = torch.stack([y.sum(dtype=torch.float32), norm.square_()])
        if self._input is None or self._output is None:
            # Float32 is exact enough for one call; calls are folded in float64, where the device has it.
            wide = torch.float32 if x.device.type == "mps" else torch.float64
            self._input, self._output = shared.sums.to(wide), output.to(wide)
        else:
            self._input += shared.sums
            self._output += output
        if self._reservoir is not None:
            self._sample(x.detach(), shared, generator)
        self.input_rows += shared.rows
        self._outputs += y.numel()

    def _sample(self, x: torch.Tensor, shared: _SharedInput, generator: torch.Generator) -> None:
        assert self._reservoir is not None
        if shared.reservoir is None:
            shared.reservoir = self._reservoir
            self._reservoir.add(x, self.is_conv, shared.rows, generator)
        elif self.input_rows == 0:
            self._reservoir = shared.reservoir  # they share their input, so one sample serves both
        elif self._reservoir is not shared.reservoir:
            self._reservoir.add(x, self.is_conv, shared.rows, generator)

    def finish(self) -> LayerStatistics:
        assert self._input is not None and self._output is not None
        total, squares = self._output.double().cpu().tolist()
        return LayerStatistics(
            input_rows=self.input_rows,
            input_sums=self._input.double().cpu(),
            output_sums=torch.tensor([self._outputs, total, squares], dtype=torch.float64),
            rows=None if self._reservoir is None else self._reservoir.rows(),
        )


class _Reservoir:
    """A uniform sample of rows: every row seen gets a random key, and the rows with the smallest keys stay.

    Keys are drawn and compared on the CPU, so nothing is copied from the device and, once the reservoir
    has filled, most calls touch no data at all.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys = torch.full((size,), 2.0)
        self._rows: torch.Tensor | None = None
        self._sample: torch.Tensor | None = None

    def add(self, x: torch.Tensor, is_conv: bool, count: int, generator: torch.Generator) -> None:
        keys = torch.rand(count, generator=generator)
        candidates = (keys < self._keys.max()).nonzero().flatten()
        if candidates.numel() == 0:
            return
        if candidates.numel() > self._size:
            candidates = candidates[keys[candidates].topk(self._size, largest=False).indices]
        merged = torch.cat([self._keys, keys[candidates]])
        kept = torch.zeros(merged.numel(), dtype=torch.bool)
        kept[merged.topk(self._size, largest=False).indices] = True
        entering = candidates[kept[self._size :]]
        slots = (~kept[: self._size]).nonzero().flatten()[: entering.numel()]
        self._keys[slots] = keys[entering]
        rows = x.movedim(-3, -1) if is_conv else torch.atleast_2d(x)
        if self._rows is None:
            self._rows = torch.zeros(self._size, rows.shape[-1], dtype=torch.float16, device=x.device)
        where = torch.unravel_index(entering, rows.shape[:-1])
        chosen = rows[tuple(index.to(x.device, non_blocking=True) for index in where)]
        limit = torch.finfo(torch.float16).max
        self._rows[slots.to(x.device, non_blocking=True)] = chosen.clamp(-limit, limit).to(torch.float16)

    def rows(self) -> torch.Tensor | None:
        """The sample, float16 [up to size, C_in] on the CPU; the same tensor for all layers that share it."""
        if self._sample is None and self._rows is not None:
            self._sample = self._rows[(self._keys < 2.0).to(self._rows.device)].cpu()
        return self._sample
