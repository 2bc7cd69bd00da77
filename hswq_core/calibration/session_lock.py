"""A lock beside a session's file, among all processes of all machines that honour it."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StatisticsError
from ..log import get_logger

logger = get_logger(__name__)
_SECONDS = 120.0


class SessionLock:
    """A context manager: alone with the file.

    Attributes:
        path: of the lock.

    Errors: StatisticsError when it cannot be acquired.
    """

    def __init__(self, session: Path) -> None:
        self._session = session
        self.path = session.with_name(f".{session.name}.lock")
        self._lock = FileLock(self.path, timeout=_SECONDS)
        self._usable: bool | None = None

    def __enter__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._usable is None:
                self._usable = _has_locks(self.path)
            if self._usable:
                self._lock.acquire()
        except (Timeout, OSError) as error:
            raise StatisticsError(
                f"the session's file could not be locked ({error})", where=self._session, remedy="Check the folder"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _has_locks(path: Path) -> bool:
    """Whether a file can be locked where it is. Some network file systems and FUSE mounts have no locks.

    A lock file that only exists would outlive a process that is killed, and then nobody could write.
    Errors: OSError when the file cannot be made.
    """
    with path.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except ImportError:  # Windows, whose locks belong to every file system
            return True
        except BlockingIOError:  # another process has it
            return True
        except OSError as error:
            logger.warning(
                "HSWQ: files in %s cannot be locked (%s): calibrate a session there from one process at a time",
                path.parent,
                error.strerror,
            )
            return False
    return True
