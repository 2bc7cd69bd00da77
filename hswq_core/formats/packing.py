"""Codes of fewer than 8 bits in bytes.

A code c of b bits is stored as the number c + 2^(b-1), which is not negative. It is taken apart into planes of 4, 2 and
1 bits (6 = 4 + 2, 3 = 2 + 1), its lowest bits first, and each plane of a row is stored whole, before the next one. In a
plane neighbouring columns share a byte, the first one in its lowest bits; the last byte is filled up with zeros.
"""

from __future__ import annotations

import torch

_PLANES = (4, 2, 1)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes, int8 [N, K], as uint8 [N, packed_columns(K, bits)]."""
    values = (codes.to(torch.int16) + (1 << bits - 1)).to(torch.uint8)
    planes = []
    for width, shift in _planes(bits):
        plane = (values >> shift) & ((1 << width) - 1)
        together = 8 // width
        plane = torch.nn.functional.pad(plane, (0, -plane.shape[1] % together)).unflatten(1, (-1, together))
        packed = plane[..., 0].clone()
        for place in range(1, together):
            packed |= plane[..., place] << (place * width)
        planes.append(packed)
    return torch.cat(planes, dim=1)


def unpack(packed: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """The inverse of ``pack``: int8 [N, columns]."""
    # On a card these are a launch each, for every layer of every step.
    values, begin = None, 0
    for width, shift in _planes(bits):
        size = _bytes(columns, width)
        plane = packed[:, begin : begin + size, None]
        places = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
        part = ((plane >> places) & ((1 << width) - 1)).flatten(1)[:, :columns]
        values = part if values is None else values | (part << shift)
        begin += size
    assert values is not None
    return values.view(torch.int8) - (1 << bits - 1)


def packed_columns(columns: int, bits: int) -> int:
    """Bytes of a row."""
    return sum(_bytes(columns, width) for width, _ in _planes(bits))


def _planes(bits: int) -> list[tuple[int, int]]:
    """Width and place of each plane."""
    found, shift = [], 0
    for width in _PLANES:
        if bits & width:
            found.append((width, shift))
            shift += width
    return found


def _bytes(columns: int, width: int) -> int:
    return -(-columns * width // 8)
