"""Sizes as people write and read them."""

from __future__ import annotations

import re

from .errors import PlanError

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{0,18})?)\s*(%|[kmgt]i?b?|b?)\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_budget(text: str, source_bytes: int) -> int:
    """Bytes from "3.2GB", "800MiB", "57%" (of the source), or a plain number. Errors: PlanError for anything else."""
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise PlanError(
            f"the budget {text!r} is not a size",
            remedy="Give a size as in 3.2GB or 800MiB, or a share of the source as in 57%",
        )
    number, unit = float(found[1]), found[2].lower().removesuffix("b")
    if unit == "%":
        return int(source_bytes * number / 100)
    return int(number * (_BINARY_UNITS[unit[0]] if unit.endswith("i") else _UNITS[unit]))


def size_in_words(nbytes: int) -> str:
    """ "4.40 GB", "11.53 MB": in decimal units, as disks and downloads are sold."""
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.2f} MB"
