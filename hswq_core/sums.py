"""Running sums that stay exact over any number of additions, on every device."""

from __future__ import annotations

import torch

from .devices import holds


class WideSum:
    """A sum of float32 tensors: in float64, or where a device has none in two float32 tensors.

    Of these one is the sum as float32 rounds it, and the other what that leaves out, so that together they have 48 bits
    (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B; Dekker, A floating-point technique for extending the
    available precision, 1971).

    Args:
        shape: of the tensors.
        device: where they are.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        is_wide = holds(torch.float64, device)
        self._sum = torch.zeros(shape, dtype=torch.float64 if is_wide else torch.float32, device=device)
        self._lost = None if is_wide else torch.zeros(shape, device=device)

    def add(self, values: torch.Tensor) -> None:
        """Add a tensor of the sum's shape."""
        if self._lost is None:
            self._sum += values
            return
        values = values.float()
        whole = self._sum + values
        added = whole - self._sum
        lost = self._lost + ((self._sum - (whole - added)) + (values - added))
        self._sum = whole + lost
        self._lost = lost - (self._sum - whole)

    def copy(self, source: slice, target: slice) -> None:
        """Let a part of the last dimension be what another is."""
        for part in (self._sum, self._lost):
            if part is not None:
                part[..., target] = part[..., source]

    def float(self) -> torch.Tensor:
        """The sum in float32, on its device; a new tensor."""
        return self._sum.float() if self._lost is None else self._sum + self._lost

    def double(self) -> torch.Tensor:
        """The sum in float64, on the CPU: the device is read here alone."""
        found = self._sum.cpu().double()
        return found if self._lost is None else found + self._lost.cpu().double()
