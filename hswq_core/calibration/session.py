"""A calibration session: statistics that grow run by run and live in one file."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import StatisticsError
from ..fingerprint import Fingerprint
from .statistics import Statistics

logger = logging.getLogger(__name__)


class CalibrationSession:
    """Statistics under a name. Opening continues what is on disk; every finished run is flushed at once.

    The object is what ComfyUI caches as the output of the calibrate node, so it is shared by all who use
    the session: whoever reads ``statistics`` sees every run finished until then.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self.statistics = Statistics(layers={}, fingerprint=fingerprint)

    @classmethod
    def open(cls, path: Path, fingerprint: Fingerprint, *, reset: bool = False) -> CalibrationSession:
        """Continue the session in ``path``, or begin it.

        Errors: StatisticsError when the file is damaged or holds statistics of another model; it is left as it is.
        """
        session = cls(path, fingerprint)
        if reset:
            path.unlink(missing_ok=True)
        elif path.exists():
            existing = Statistics.load(path)
            if existing.fingerprint is None or not existing.fingerprint.matches(fingerprint):
                raise StatisticsError(
                    "this session holds statistics of another model",
                    where=path,
                    do="Choose another session name, or turn on 'reset' to start it anew",
                )
            session.statistics = existing
        return session

    def add_run(self, run: Statistics) -> None:
        """Add a finished sampling run and write the file. A failed write is logged: sampling must not die of it."""
        self.statistics = self.statistics + run
        try:
            self.statistics.save(self.path)
        except StatisticsError as error:
            logger.warning("HSWQ: %s The run is kept in memory and written with the next one.", error)
