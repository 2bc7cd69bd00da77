"""What the server says is known to the page's translations, as the server says it."""

import re
import subprocess
from pathlib import Path

import pytest

from hswq_core.calibration import Statistics
from hswq_core.calibration.coverage import coverage_notes, coverage_warnings
from tests.support.server import REPOSITORY
from tests.web.test_modules import node

SCRIPT = Path(__file__).parent / "messages.mjs"
PAGE = REPOSITORY / "web" / "hswq"
SESSIONS = (
    Statistics({}, samples=1, runs=1),
    Statistics({}, samples=3, runs=3, left_out={"the run was cancelled": 1}, noise_levels=(1, 1, *[0] * 8)),
    Statistics({}, samples=9, runs=9, left_out={"no steps": 2}, never_ran={"a.to_q": 0.25}),
    Statistics({}, samples=9, runs=9, never_ran={"a.to_q": 0.25, "b": 0.1}),
    Statistics({}, samples=9, runs=4, partial_runs=4, noise_levels=(3, 0, 3, *[0] * 7)),
)


def translated(language: str, sentences: list[str]) -> list[str]:
    command = [node(), str(SCRIPT), language]
    done = subprocess.run(command, input="\n".join(sentences), capture_output=True, encoding="utf-8", check=True)
    return done.stdout.split("\n")


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_every_warning_and_note_is_translated(language: str) -> None:
    said = [text for session in SESSIONS for text in (*coverage_notes(session), *coverage_warnings(session))]
    assert len(said) == 8
    for english, other in zip(said, translated(language, said), strict=True):
        assert other != english and "{" not in other
        assert not any(word in other for word in ("sample with", "calibrat", "layers", "weights")), other


def test_what_is_not_known_stays_and_english_stays_english() -> None:
    assert translated("ja", ["nothing like it", ""]) == ["nothing like it", ""]
    note = coverage_notes(SESSIONS[0])
    assert translated("en", note) == note


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_nodes_are_named_as_the_page_names_them(language: str) -> None:
    """That is in the page's language, too."""
    texts = [PAGE / f"examples.{language}.json", REPOSITORY / "locales" / language / "nodeDefs.json"]
    said = [line for path in texts for line in path.read_text(encoding="utf-8").split("\n")]
    for module in ("words.js", "messages.js", "choices.js"):
        text = (PAGE / module).read_text(encoding="utf-8")
        said += text[text.index(f"    {language}: {{") :].partition("\n    },")[0].split("\n")
    translations = [line.rpartition('": "')[2] for line in said]
    assert len(translations) > 300
    assert [text for text in translations if re.search("HSWQ [A-Z][a-z]", text)] == []
