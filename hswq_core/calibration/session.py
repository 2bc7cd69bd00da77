"""A calibration session: statistics that grow run by run and live in one file."""

from __future__ import annotations

import logging
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import StatisticsError
from ..fingerprint import Fingerprint
from .statistics import Statistics

logger = logging.getLogger(__name__)
_open_sessions: WeakValueDictionary[Path, CalibrationSession] = WeakValueDictionary()


class CalibrationSession:
    """Statistics under a name. Opening continues what is on disk; every finished run is flushed at once.

    The object is what ComfyUI caches as the output of the calibrate node, so it is shared by all who use
    the session: whoever reads ``statistics`` sees every run finished until then.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self.statistics = Statistics(layers={}, fingerprint=fingerprint)

    @classmethod
    def open(cls, path: Path, fingerprint: Fingerprint, *, reset: bool = False) -> CalibrationSession:
        """Continue the session in ``path``, or begin it.

        A session that is open in this process already is the same object: two that wrote the same file
        would each undo the other's runs.

        Errors: StatisticsError when the file is damaged or holds statistics of another model; it is left as it is.
        """
        path = path.resolve()
        stored = Statistics(layers={}, fingerprint=fingerprint)
        if reset:
            path.unlink(missing_ok=True)
        elif path.exists():
            stored = Statistics.load(path)
            if stored.fingerprint is None or not stored.fingerprint.matches(fingerprint):
                raise StatisticsError(
                    "this session holds statistics of another model",
                    where=path,
                    do="Choose another session name, or turn on 'reset' to start it anew",
                )
        return cls._of(path, stored, reset=reset or not path.exists())

    @classmethod
    def load(cls, path: Path) -> CalibrationSession:
        """The session in an existing file. Errors: StatisticsError when it is missing, damaged or of no known model."""
        stored = Statistics.load(path)
        if stored.fingerprint is None:
            raise StatisticsError("the statistics do not say of which model they are", where=path, do="Calibrate again")
        return cls._of(path.resolve(), stored, reset=False)

    @classmethod
    def _of(cls, path: Path, stored: Statistics, *, reset: bool) -> CalibrationSession:
        """The one session object of this path, with what is stored unless it knows more."""
        assert stored.fingerprint is not None
        session = _open_sessions.setdefault(path, cls(path, stored.fingerprint))
        # What is in memory has runs that could not be written, if it differs; a file that was deleted is a reset.
        if reset or stored.runs > session.statistics.runs:
            session.statistics = stored
        return session

    def replace(self, statistics: Statistics) -> None:
        """Take statistics that were worked on further, and write the file as after a run."""
        self.statistics = statistics
        self._flush()

    def add_run(self, run: Statistics) -> None:
        """Add a finished sampling run and write the file. A failed write is logged: sampling must not die of it."""
        self.statistics = self.statistics + run
        self._flush()

    def _flush(self) -> None:
        try:
            self.statistics.save(self.path)
        except StatisticsError as error:
            logger.warning("HSWQ: %s It is kept in memory and written with the next run.", error)
