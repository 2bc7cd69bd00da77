"""What people look for: a folder for each checkpoint, with its files, proofs and cards under their own names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hswq_core.files.replace import replace
from hswq_core.files.unfinished import temporary_beside
from hswq_core.proof.comparison import Compared, put_comparison

from .jobs import written_in
from .store import Store
from .tables import Recipe
from .tasks import Task


def put_results(recipe: Recipe, store: Store, tasks: Sequence[Task]) -> None:
    """Link, or copy where links cannot be, what is finished to ``results``. What stands there already is left.

    Where several outputs of a checkpoint were proved, a page compares them.
    """
    for task in tasks:
        if not store.has(task.name) or task.kind not in ("quantize", "prove", "card"):
            continue
        source = store.result(task.name)
        written = task if task.kind == "quantize" else task.needs[0]
        file = written_in(store.result(written.name))
        place = recipe.folder / "results" / task.checkpoint.stem
        if task.kind == "quantize":
            _put(file, place / file.name)
        elif task.kind == "prove":
            _put_all(source, place / f"{file.stem}_proof")
        else:
            _put_all(source / "publish", place / f"{file.stem}_publish")
    for place in {recipe.folder / "results" / task.checkpoint.stem for task in tasks if task.kind == "prove"}:
        pages = sorted(place.glob("*_proof/proof.html"))
        if len(pages) > 1:
            put_comparison(place, [Compared.read(page) for page in pages])


def _put_all(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            _put(path, target / path.relative_to(source))


def _put(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        unfinished = temporary_beside(target)
        shutil.copyfile(source, unfinished)
        replace(unfinished, target)
