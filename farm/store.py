"""Where results stand: a folder for each finished task, put there whole, whoever made it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hswq_core.errors import TargetError
from hswq_core.files.replace import replace
from hswq_core.files.unfinished import is_abandoned, maker

_UNFINISHED = ".unfinished-"
JOURNAL = "journal.jsonl"


class Store:
    """Args: folder: it may be shared by several machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def result(self, name: str) -> Path:
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the task of this name is done."""
        return self.result(name).is_dir()

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """An empty folder for what a task makes; at the end it becomes the result, unless another was faster.

        Errors: TargetError when there is no room or no right to write.
        """
        made = self.folder / f"{_UNFINISHED}{name}.{maker()}"
        start = time.time()
        with _as_target_error(made):
            made.mkdir(parents=True)
        try:
            yield made
            with _as_target_error(made):
                self._put(made, name, time.time() - start)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _put(self, made: Path, name: str, seconds: float) -> None:
        try:
            replace(made, self.result(name))
        except OSError:
            if not self.has(name):
                raise
            return  # another was faster
        self._note({"task": name, "seconds": round(seconds, 3), "ended": time.time()})

    def remove_leftovers(self) -> None:
        """Of processes of this machine that ended while they made something."""
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            if is_abandoned(path.name.rpartition(".")[2]):
                shutil.rmtree(path, ignore_errors=True)

    def seconds_by_kind(self) -> dict[str, float]:
        """How long tasks took on average, by kind, as the journal says."""
        taken: dict[str, list[float]] = {}
        for entry in self.journal():
            taken.setdefault(str(entry["task"]).partition("-")[0], []).append(float(entry["seconds"]))  # type: ignore[arg-type]
        return {kind: sum(all_of) / len(all_of) for kind, all_of in taken.items()}

    def journal(self) -> list[dict[str, object]]:
        """Every task that was finished, in the order of their ends."""
        try:
            lines = (self.folder / JOURNAL).read_text("utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # cut short by a death
                found.append(json.loads(line))
        return found

    def _note(self, entry: dict[str, object]) -> None:
        # One short write in append mode is whole or not at all, also from several processes.
        with (self.folder / JOURNAL).open("ab") as file:
            file.write(json.dumps(entry).encode("utf-8") + b"\n")


@contextmanager
def _as_target_error(made: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"a result could not be written ({error.strerror or error})",
            where=made,
            remedy="Free disk space, or check the folder",
        ) from error
