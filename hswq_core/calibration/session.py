"""A calibration session: statistics that grow run by run and live in one file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import StatisticsError
from ..fingerprint import Fingerprint
from .statistics import Statistics
from .statistics_file import load_statistics, save_statistics

logger = logging.getLogger(__name__)
_SPARING = 10.0
_open_sessions: WeakValueDictionary[Path, CalibrationSession] = WeakValueDictionary()


class CalibrationSession:
    """Statistics under a name. Opening continues what is on disk; every finished run is flushed at once.

    The object is what ComfyUI caches as the output of the calibrate node, so it is shared by all who use
    the session: whoever reads ``statistics`` sees every run finished until then.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self.statistics = Statistics(layers={}, fingerprint=fingerprint)
        self._sparing = False
        self._tried = self.statistics  # what was last written, or could not be
        self._written, self._write_seconds = 0.0, 0.0

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
            stored = load_statistics(path)
            if stored.fingerprint is None or not stored.fingerprint.matches(fingerprint):
                raise StatisticsError(
                    "this session holds statistics of another model",
                    where=path,
                    remedy="Choose another session name, or turn on 'reset' to start it anew",
                )
        return cls._of(path, stored, reset=reset or not path.exists())

    @classmethod
    def load(cls, path: Path) -> CalibrationSession:
        """The session in an existing file. Errors: StatisticsError when it is missing, damaged or of no known model."""
        stored = load_statistics(path)
        if stored.fingerprint is None:
            raise StatisticsError(
                "the statistics do not say of which model they are", where=path, remedy="Calibrate again"
            )
        return cls._of(path.resolve(), stored, reset=False)

    @classmethod
    def _of(cls, path: Path, stored: Statistics, *, reset: bool) -> CalibrationSession:
        """The one session object of this path, with what is stored unless it knows more."""
        assert stored.fingerprint is not None
        session = _open_sessions.setdefault(path, cls(path, stored.fingerprint))
        # What is in memory has runs that could not be written, if it differs; a file that was deleted is a reset.
        if reset or stored.runs > session.statistics.runs:
            session.statistics = session._tried = stored
        return session

    def replace(self, statistics: Statistics) -> None:
        """Take statistics that were worked on further, and write the file as after a run."""
        self.statistics = statistics
        self._flush()

    def add_run(self, run: Statistics) -> None:
        """Add a finished sampling run and write the file. A failed write is logged: sampling must not die of it."""
        self.statistics = self.statistics + run
        if not self._sparing or time.monotonic() >= self._written + _SPARING * self._write_seconds:
            self._flush()

    @contextmanager
    def sparing_writes(self) -> Iterator[None]:
        """Meanwhile, and only while a file takes long to write, not every run is written: a tenth of the time at most.

        With rows SDXL's file has 2.7 GB, and a recipe has 32 runs. What is pending is written in the end, also after
        an error; a kill loses at most the runs of ten times as long as a write takes.
        """
        self._sparing = True
        try:
            yield
        finally:
            self._sparing = False
            if self._tried is not self.statistics:
                self._flush()

    def _flush(self) -> None:
        begin = time.monotonic()
        self._tried = self.statistics
        try:
            save_statistics(self.statistics, self.path)
        except StatisticsError as error:
            logger.warning("HSWQ: %s It is kept in memory and written with the next run.", error)
        self._written = time.monotonic()
        self._write_seconds = self._written - begin
