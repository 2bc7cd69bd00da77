"""FP8 on devices without such a type: codes are held as bytes, and looked up in a table of what they stand for."""

from __future__ import annotations

from functools import cache

import torch


def numbers_of(codes: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """What bytes stand for, in FP16, which holds every number of FP8.

    Args:
        codes: uint8, any shape.
        kind: torch's type of which they are the bytes.
    """
    table = _table(kind, codes.device)
    return table.index_select(0, codes.flatten().to(torch.int32)).view(codes.shape)


@cache
def _table(kind: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # it serves in every mode
        return torch.arange(256, dtype=torch.uint8).view(kind).half().to(device)
