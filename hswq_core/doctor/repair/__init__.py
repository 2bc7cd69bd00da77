"""Mends a damaged file with the help of the model that it was made from.

Read in this order: ``original`` (which of its tensors belongs to which of the file), ``forms``, ``descriptions``
and ``layer`` (one quantized layer), ``lost`` (one tensor that is not quantized), ``plan`` (all of them), ``header``,
and ``mend``, which writes.
"""

from .mend import Repair, repair

__all__ = ["Repair", "repair"]
