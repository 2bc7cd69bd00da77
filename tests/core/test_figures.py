"""Every figure that README and the docs quote is that of the table, and the page that it comes from says the same."""

import re
from pathlib import Path

import pytest

from showcase import figures as f

FIGURES = f.read()
README = (f.REPOSITORY / "README.md").read_text(encoding="utf-8")
FRONT = README.partition("## Figures")[0]
# A number with a unit of size, time or share, or with an exponent. Counts and bits are not among them.
_QUANTITY = re.compile(r"\d[\d.,]* ?(?:[GMK]B|ms|s|minutes?|hours?|%|dB|times)(?!\w)|\d\.\d+e-?\d+|\b0\.\d{2,}")


@pytest.mark.parametrize("page", f.PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_table_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert f.rendered(text, FIGURES) == text, "python -m showcase.figures"


# What was asked for, and what kind of card: nobody measured these.
_NOT_MEASURED = ["40 %", "12 GB"]


def test_no_figure_of_readme_is_without_a_source() -> None:
    text = re.sub(r"```.*?```", "", f.MARK.sub("", README), flags=re.DOTALL)
    assert _QUANTITY.findall(text) == _NOT_MEASURED


def test_every_figure_has_its_origin() -> None:
    for figure in FIGURES.values():
        assert figure.kind in f.KINDS and figure.command, figure
        assert figure.kind == "computed" or (figure.machine and figure.date), figure
        if figure.page:
            assert figure.quote in (f.REPOSITORY / figure.page).read_text(encoding="utf-8"), figure
        else:
            assert figure.kind == "computed" or figure.name.startswith("demo."), figure


def test_the_number_is_in_the_line_that_it_is_quoted_from() -> None:
    for figure in FIGURES.values():
        if figure.quote and figure.kind != "computed":
            numbers = [
                float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*(?:e-?\d+)?", figure.quote)
            ]
            assert figure.value is not None
            # Seconds are told as minutes, a share of the speed as a multiple of the time.
            told = (figure.value, figure.value * 60, 1 / figure.value)
            assert any(abs(value - number) <= 1e-4 * number for value in told for number in numbers), figure


def test_every_mark_is_of_a_figure_that_is_used() -> None:
    marks = {name for page in f.PAGES for name, _ in f.MARK.findall(page.read_text(encoding="utf-8"))}
    assert marks - {"demo"} <= FIGURES.keys()


def test_the_first_part_of_readme_is_short_and_begins_with_what_to_do() -> None:
    assert len(re.sub(r"<!--.*?-->", "", FRONT).split()) <= 900
    first = README[:2000]
    assert "pip install nox && nox -s demo" in first and "pip install nox && nox -s tests" in first


def test_a_report_of_the_demo_becomes_the_table(tmp_path: Path) -> None:
    found = {"bytes": 6_570_000, "ssim": 0.99991, "psnr": None, "latent_mse": 1.7e-5, "model_error": 8.3e-6}
    report = {"models": {"int8": found | {"kept_layers": 40, "quantized_layers": 135}}}
    f.write(f.demo_figures(report, "a machine", "2026-11-29"), tmp_path / "figures.json")
    table = f.demo_table(f.read(tmp_path / "figures.json"))
    assert table.splitlines()[-1] == "| int8 | 6.57 MB | 0.9999 | same | 1.7e-05 | 8.3e-06 | 40 | 135 |"
