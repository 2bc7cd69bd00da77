"""What is wrong with a file: each check a file, each problem with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..contents import Contents
from .claims import check_claims
from .finding import Finding
from .scales import check_beside, check_scales
from .spread import check_spread

Check = Callable[[Contents], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (check_scales, check_beside, check_spread, check_claims)

__all__ = ["Finding", "findings_of"]


def findings_of(contents: Contents) -> list[Finding]:
    """Everything that is wrong, errors first. Reads all scales, and a sample of the weights of every layer."""
    found = [finding for check in CHECKS for finding in check(contents)]
    return sorted(found, key=lambda finding: not finding.is_error)
