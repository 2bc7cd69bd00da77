"""Writes docs/compatibility.md: with which versions the tests were run, from the record that they keep.

python -m showcase.compatibility
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.run_record import RECORD, Run, recorded

PAGE = RECORD.with_suffix(".md")
_SUITES = {
    "unit": "the core: statistics, rounding, files, command line (`nox -s unit`, without lint)",
    "versions": "the same with other versions of Python and torch (`nox -s versions`)",
    "tests": "the core, real servers, farm, families, and the page in one of its two renderers (`nox -s tests`)",
    "server": "real servers alone (`COMFYUI_PATH=DIR HSWQ_RECORD=1 nox -s server`)",
    "browser": "the page in Chromium, both renderers (`nox -s browser`)",
    "frontends": "other versions of the page, in the newer of its renderers (`nox -s frontends`)",
}
_HEAD = """# Versions

What was run with which versions, written by the tests themselves: `HSWQ_RECORD=1 nox -s SESSION` adds a run to
[compatibility.json](compatibility.json) and writes this page anew. What is not in the table
was not run: Windows, macOS and cards among it (`.github/workflows/ci.yml` runs `unit` on three systems where the
repository has runners; figures of a card are in [benchmarks](benchmarks.md)).

"""


def page(runs: Iterable[Run]) -> str:
    """The page of these runs."""
    rows = [
        "| tests | ComfyUI | frontend | torch | Python | system | date | passed | failed | skipped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda each: (list(_SUITES).index(each.what), each.place)):
        versions = (run.comfyui or "-", run.frontend or "-", run.torch, run.python, run.system, run.date)
        rows.append(f"| {run.what} | {' | '.join(versions)} | {run.passed:,} | {run.failed:,} | {run.skipped:,} |")
    suites = "\n".join(f"- *{name}*: {what}" for name, what in _SUITES.items())
    return f"{_HEAD}{chr(10).join(rows)}\n\n{suites}\n"


def write_page() -> None:
    """Write the page of the runs that are recorded."""
    PAGE.write_text(page(recorded()), encoding="utf-8")


if __name__ == "__main__":
    write_page()
