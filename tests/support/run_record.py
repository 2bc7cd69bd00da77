"""A record of what was run with which versions, from which docs/compatibility.md is written."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RECORD = Path(__file__).resolve().parents[2] / "docs" / "compatibility.json"
_VERSION = re.compile(r"__version__ = \"([^\"]+)\"")


@dataclass(frozen=True)
class Run:
    """One run of tests. ``comfyui`` and ``frontend`` are empty where none took part."""

    what: str
    date: str
    system: str
    python: str
    torch: str
    comfyui: str
    frontend: str
    passed: int
    failed: int
    skipped: int

    @property
    def place(self) -> tuple[str, ...]:
        """What a newer run of the same tests replaces."""
        return (self.what, self.system, self.python, self.torch, self.comfyui, self.frontend)


def this_run(what: str, passed: int, failed: int, skipped: int) -> Run:
    """What was run here and now."""
    comfyui = os.environ.get("COMFYUI_PATH", "")
    return Run(
        what=what,
        date=datetime.date.today().isoformat(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__.partition("+")[0],
        comfyui=_comfyui_version(Path(comfyui)) if comfyui else "",
        frontend=_frontend_version() if comfyui else "",
        passed=passed,
        failed=failed,
        skipped=skipped,
    )


def add(run: Run, file: Path = RECORD) -> None:
    """Put a run into the record, in the place of an older one of the same."""
    runs = {other.place: other for other in recorded(file)} | {run.place: run}
    lines = ",\n".join(json.dumps(asdict(runs[place])) for place in sorted(runs))
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def recorded(file: Path = RECORD) -> list[Run]:
    """All runs of the record."""
    return [Run(**each) for each in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def _comfyui_version(folder: Path) -> str:
    file = folder / "comfyui_version.py"
    found = _VERSION.search(file.read_text(encoding="utf-8")) if file.exists() else None
    return found[1] if found else "unknown"


def _frontend_version() -> str:
    """That of the package, or of the folder of another one that ``HSWQ_FRONTEND`` names."""
    name = "comfyui_frontend_package"
    if other := os.environ.get("HSWQ_FRONTEND"):
        packages = importlib.metadata.distributions(name=name, path=[str(Path(other).parents[1])])
        return next((each.version for each in packages), "unknown")
    return importlib.metadata.version(name)
