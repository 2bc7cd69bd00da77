"""The figures that pages quote, from one table: ``docs/figures.json``.

    python -m showcase.figures                                  # writes them into the pages
    python -m showcase.figures --demo demo_output/report.json   # after taking over what 'nox -s demo' measured

A page marks a figure by ``<!--=NAME-->4.37 GB<!--/-->``, which readers do not see. ``demo`` is the demo's whole table.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE = REPOSITORY / "docs" / "figures.json"
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
MARK = re.compile(r"<!--=([\w.-]+)-->(.*?)<!--/-->", re.DOTALL)
KINDS = ("measured", "computed", "modelled")
_DEMO = "demo"
# Columns of the demo's table by what the report calls them: title, unit, how numbers are written.
_COLUMNS = {
    "bytes": ("file", "MB", ".2f"),
    "ssim": ("SSIM", "", ".4f"),
    "psnr": ("PSNR", "dB", ".1f"),
    "latent_mse": ("latent MSE", "", ".1e"),
    "model_error": ("model error", "", ".1e"),
    "kept_layers": ("kept", "", "d"),
    "quantized_layers": ("in 8 bits", "", "d"),
}


@dataclass(frozen=True)
class Figure:
    """One number.

    Args:
        kind: one of ``KINDS``; what is computed or modelled says from what in ``command``.
        page, quote: the page that tells how it was measured, and its line; empty where this table is all there is.
    """

    name: str
    value: float | None
    unit: str
    written: str
    kind: str
    command: str
    machine: str
    date: str
    page: str = ""
    quote: str = ""

    @property
    def number(self) -> str:
        """The value as pages write it; ``None``, a PSNR of equal images, is "same"."""
        if self.value is None:
            return "same"
        return format(int(self.value) if self.written.endswith("d") else self.value, self.written)

    @property
    def text(self) -> str:
        return f"{self.number} {self.unit}" if self.unit and self.value is not None else self.number


def read(table: Path = TABLE) -> dict[str, Figure]:
    """All figures by name. Errors: ValueError if two have one name."""
    figures = [Figure(**entry) for entry in json.loads(table.read_text(encoding="utf-8"))]
    named = {figure.name: figure for figure in figures}
    if len(named) < len(figures):
        raise ValueError(f"{table}: two figures have one name")
    return named


def rendered(page: str, figures: Mapping[str, Figure]) -> str:
    """A page with its marked figures as the table has them. Errors: KeyError for a name that is not in the table."""

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        text = f"\n{demo_table(figures)}\n" if name == _DEMO else figures[name].text
        return f"<!--={name}-->{text}<!--/-->"

    return MARK.sub(replace, page)


def demo_table(figures: Mapping[str, Figure]) -> str:
    """The demo's models, a row each."""
    models = list(dict.fromkeys(name.split(".")[1] for name in figures if name.startswith(f"{_DEMO}.")))
    titles = ["model", *(title for title, _, _ in _COLUMNS.values())]
    rows = [titles, ["---"] * len(titles)]
    rows += [[model, *(figures[f"{_DEMO}.{model}.{key}"].text for key in _COLUMNS)] for model in models]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def demo_figures(report: Mapping[str, Any], machine: str, date: str) -> list[Figure]:
    """What a report of the demo says, as figures."""
    return [
        Figure(
            f"{_DEMO}.{model}.{key}", found[key] / 1e6 if key == "bytes" and found[key] else found[key], unit, written,
            "measured", "nox -s demo", machine, date,
        )
        for model, found in report["models"].items()
        for key, (_, unit, written) in _COLUMNS.items()
    ]  # fmt: skip


def write(figures: Iterable[Figure], table: Path = TABLE) -> None:
    text = ",\n".join(f" {json.dumps(asdict(figure), ensure_ascii=False)}" for figure in figures)
    table.write_text(f"[\n{text}\n]\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="a report.json of the demo")
    parser.add_argument("--machine", default="2 CPU cores", help="what the demo ran on")
    parser.add_argument("--date", default="", help="when, as in 2026-11-29")
    args = parser.parse_args(arguments)
    figures = read()
    if args.demo:
        report = json.loads(args.demo.read_text(encoding="utf-8"))
        machine = f"{args.machine}, ComfyUI {report['comfyui']}"
        others = [figure for figure in figures.values() if not figure.name.startswith(f"{_DEMO}.")]
        write([*others, *demo_figures(report, machine, args.date)])
        figures = read()
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = rendered(before, figures)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
