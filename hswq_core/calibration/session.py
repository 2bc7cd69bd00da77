"""A calibration session: statistics that grow run by run and live in one file.

The file is the truth. Every change is a transaction: lock, read what others have written meanwhile, change it, write
it whole, unlock. What cannot be written is kept in memory and tried again with the next change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import StatisticsError
from ..files.source import FileIdentity
from ..fingerprint import Fingerprint
from ..heap import trim_heap
from ..log import get_logger
from .session_lock import SessionLock
from .statistics import Statistics
from .statistics_file import load_statistics, save_statistics, with_stored_rows

logger = get_logger(__name__)
_WRITE_INTERVAL = 10.0  # seconds between writes, for each second that a write takes
_MAX_PENDING_BYTES = 4 << 30
"""Largest size of the rows in runs that are not written yet, in bytes."""
_open_sessions: WeakValueDictionary[Path, CalibrationSession] = WeakValueDictionary()
_unwritten_sessions: set[CalibrationSession] = set()
"""Kept alive here, since their runs are in memory alone."""

Change = Callable[[Statistics], Statistics]


class CalibrationSession:
    """Statistics under a name. Opening continues what is on disk; every finished run is written at once.

    The object is what ComfyUI caches as the output of the calibrate node, so it is shared by all who use
    the session in this process: whoever reads ``statistics`` sees every run finished until then.

    Attributes:
        unwritten: why the last write failed; empty when it did not. What it was to write is kept in memory.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._stored = Statistics(layers={}, fingerprint=fingerprint)
        self._seen: FileIdentity | None = None
        self._pending: list[Change] = []
        self._sum = self._stored
        self._writes_less = False
        self._written, self._write_seconds = 0.0, 0.0
        self._pending_bytes = 0
        self._lock = SessionLock(path)
        self.unwritten = ""

    @classmethod
    def open(cls, path: Path, fingerprint: Fingerprint, *, reset: bool = False) -> CalibrationSession:
        """Continue the session in ``path``, or begin it. There is one object for a path in a process.

        Errors: StatisticsError when the file is damaged or holds statistics of another model; it is left as it is.
        StatisticsError, too, when nothing can be written where it is.
        """
        path = Path(os.path.realpath(path))  # pathlib raises for a link to itself
        session = _open_sessions.setdefault(path, cls(path, fingerprint))
        if reset:
            session._reset()
        session._refresh()
        if session.statistics.runs:
            session.check_model(fingerprint)
        else:
            session._begin(fingerprint)
        session._check_folder()
        return session

    @classmethod
    def load(cls, path: Path) -> CalibrationSession:
        """The session in an existing file. Errors: StatisticsError when it is missing, damaged, or names no model."""
        stored = load_statistics(path)
        if stored.fingerprint is None:
            raise StatisticsError(
                "the statistics do not say of which model they are", where=path, remedy="Calibrate again"
            )
        real = Path(os.path.realpath(path))
        session = _open_sessions.setdefault(real, cls(real, stored.fingerprint))
        session._refresh()
        return session

    @property
    def statistics(self) -> Statistics:
        """Every run finished until now, as far as this process knows."""
        return self._sum

    def check_model(self, fingerprint: Fingerprint, patches: str | None = None) -> None:
        """Errors: StatisticsError when the session is of another model, or of other patches where they are given."""
        if not self.fingerprint.matches(fingerprint):
            raise StatisticsError(
                "this session holds statistics of another model",
                where=self.path,
                remedy="Choose another session name, or turn on 'reset' to start it anew",
            )

        if patches is not None and self.statistics.runs and self.statistics.patches != patches:
            raise StatisticsError(
                "this session was calibrated with other patches (LoRA or merges) on top of the model",
                where=self.path,
                remedy="Choose another session name, or turn on 'reset' to start it anew",
            )

    def add_run(self, run: Statistics, reason: str = "") -> str:
        """Add a finished sampling run. A failed write is logged: sampling must not fail because of it.

        A run with NaN or infinity, or without any layer, would spoil the sum; it is left out and counted.

        Args:
            reason: why it is to be left out, where that is known already.

        Returns: why it was left out; nothing when it was added.
        """
        reason = reason or _why_unusable(run)
        if reason:
            logger.warning("HSWQ: session %s: a run was left out: %s", self.path.stem, reason)
            run = Statistics(layers={}, fingerprint=run.fingerprint, left_out={reason: 1})
        self._pending_bytes += _bytes_of_rows(run)
        self._change(lambda total: total + run)
        return reason

    def add_impacts(self, impacts: Mapping[str, float], purpose: str) -> None:
        """Add measured impacts; those for other purposes stay."""
        if impacts:
            found = dict(impacts)
            self._change(lambda total: total.with_impacts(found, purpose))

    @contextmanager
    def fewer_writes(self) -> Iterator[None]:
        """Until the context ends, writing takes a tenth of the time at most: runs are written together.

        With rows SDXL's file has 2.7 GB, and a recipe has 32 runs. What is pending is written in the end, also after
        an error; a kill loses at most the runs of ten times as long as a write takes.
        """
        self._writes_less = True
        try:
            yield
        finally:
            self._writes_less = False
            if self._pending:
                self._write()

    def _change(self, change: Change) -> None:
        self._sum = change(self._sum)  # first, as it raises for a run of another model
        self._pending.append(change)
        due = time.monotonic() >= self._written + _WRITE_INTERVAL * self._write_seconds
        if not self._writes_less or due or self._pending_bytes > _MAX_PENDING_BYTES:
            self._write()

    def _begin(self, fingerprint: Fingerprint) -> None:
        """No run is in the session yet: it belongs to whichever model is calibrated first."""
        self.fingerprint = fingerprint
        self._stored = Statistics(layers={}, fingerprint=fingerprint)
        self._sum = self._combined()

    def _reset(self) -> None:
        with self._lock:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise StatisticsError(
                    f"the session cannot be removed ({error.strerror})",
                    where=self.path,
                    remedy="Choose another session name, or check the permissions of its folder",
                ) from error
        self._forget_pending()
        _unwritten_sessions.discard(self)
        self.unwritten = ""
        self._refresh()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0

    def _refresh(self) -> None:
        """Read the file if another process, or another session, has changed it. A file that was deleted is a reset."""
        now = self._identity()
        if now == self._seen:
            return
        stored = load_statistics(self.path) if now else Statistics(layers={}, fingerprint=self.fingerprint)
        self._stored, self._seen = stored, now
        self.fingerprint = stored.fingerprint or self.fingerprint
        self._sum = self._combined()

    def _identity(self) -> FileIdentity | None:
        try:
            return FileIdentity.of(self.path, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StatisticsError(
                f"the session cannot be read ({error.strerror})", where=self.path, remedy="Check its permissions"
            ) from error

    def _combined(self) -> Statistics:
        total = self._stored
        for change in self._pending:
            total = change(total)
        return total

    def _write(self) -> None:
        begin = time.monotonic()
        try:
            with self._lock:
                self._refresh()
                if self._sum.layers:
                    save_statistics(self._sum, self.path)
                    self._seen = FileIdentity.of(self.path, os.stat(self.path))
                    self._stored = self._sum
                    self._forget_pending()
                    with suppress(OSError):  # the rows are in the file now, and need not be in memory
                        self._stored = self._sum = with_stored_rows(self._sum, self.path)
            self.unwritten = ""
            _unwritten_sessions.discard(self)
        except StatisticsError as error:
            self.unwritten = str(error)
            _unwritten_sessions.add(self)
            logger.warning("HSWQ: %s It is kept in memory and written with the next run.", error)
        trim_heap()
        self._written = time.monotonic()
        self._write_seconds = self._written - begin

    def _check_folder(self) -> None:
        """Errors: StatisticsError where no session could be written: it is raised before hours are spent on one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.path.touch()
        except OSError as error:
            raise StatisticsError(
                f"no session can be written here ({error.strerror})",
                where=self.path.parent,
                remedy="Make it a folder that can be written to, or choose another output folder",
            ) from error


def _bytes_of_rows(run: Statistics) -> int:
    rows = {id(layer.rows): layer.rows for layer in run.layers.values() if layer.rows is not None}
    return sum(2 * len(each) * each.shape[1] for each in rows.values())


def _why_unusable(run: Statistics) -> str:
    if not run.layers:
        return "no layer of the model ran where it could be measured; a compiled model cannot be calibrated"
    if layer := run.not_finite():
        return f"NaN or infinity in the layer {layer}"
    return ""
