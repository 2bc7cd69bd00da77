"""A layer's quantized weight as the tensors of a file, for nodes that save a model."""

from __future__ import annotations

import torch

from ..hswq_core.formats.comfy_mixed import nvfp4_tensors
from ..hswq_core.formats.int8 import INT8_FORM, ROTATED_INT8_FORM
from ..hswq_core.formats.mixed import MIXED
from ..hswq_core.formats.refusal import refusing_tensors
from ..hswq_core.formats.v2 import V2
from ..hswq_core.grids import E4M3
from ..hswq_core.rounding.rotation import NONE
from .quantized_tensor import bits_of, codes_and_scale, factor_of, group_of, stored_codes


def stored_tensors(weight: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
    """The weight, what stands beside it, and for formats that stock loaders do not know, the tensors that stop them.

    Args:
        prefix: the layer's name, with a dot at its end.
    """
    codes, (_, scale) = stored_codes(weight), codes_and_scale(weight)
    layer, bits = prefix.removesuffix("."), bits_of(weight)
    found = {f"{prefix}weight": codes}
    if codes.dtype.is_floating_point:
        return found | V2.form.side_tensors_for(layer, scale.reshape(-1), tuple(weight.shape))
    if bits == 8:
        group = group_of(weight)
        form = INT8_FORM if group == NONE else ROTATED_INT8_FORM
        beside = form.side_tensors_for(layer, scale.reshape(-1, 1), tuple(weight.shape), group)
        return found | beside | refusing_tensors("hswq_int8")
    factor = factor_of(weight)
    if factor is not None:
        return found | nvfp4_tensors(layer, E4M3.stored(scale), factor)
    form = next(form for form in MIXED.menu if form.bits == bits)
    return found | form.side_tensors_for(layer, scale, tuple(weight.shape)) | refusing_tensors("hswq_mixed")
