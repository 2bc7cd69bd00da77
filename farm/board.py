"""How far the farm is: a table that is drawn again where rich and a terminal are, otherwise a line for each task."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from .estimate import done_by_kind, duration, seconds_left
from .execute import Outcome
from .store import Store
from .tasks import Task


class Board:
    """Told of every outcome, as a context manager. Args: quiet: whether nothing is shown."""

    def __init__(self, tasks: Sequence[Task], store: Store, workers: int, *, quiet: bool = False) -> None:
        self._tasks, self._store, self._workers, self._quiet = tasks, store, workers, quiet
        self._kinds = {task.name: task.kind for task in tasks}
        self._failed: Counter[str] = Counter()
        self._live: Any = None

    def __enter__(self) -> Board:
        if not self._quiet and sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError:
                return self
            self._live = Live(self._table(), console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, outcome: Outcome) -> None:
        if outcome.error:
            self._failed[self._kinds[outcome.task]] += 1
        if self._live is not None:
            self._live.update(self._table())
        elif not self._quiet:
            state = f"failed: {outcome.error}" if outcome.error else f"done in {outcome.seconds:.1f} s"
            print(f"{outcome.label}: {state}", file=sys.stderr, flush=True)

    def _table(self) -> Any:
        from rich.table import Table

        left = seconds_left(self._tasks, self._store, self._workers)
        title = "" if left is None else f"about {duration(left)} left"
        table = Table("", "done", "of", "failed", title=title)
        for kind, done, count in done_by_kind(self._tasks, self._store):
            table.add_row(kind, str(done), str(count), str(self._failed[kind] or ""))
        return table
