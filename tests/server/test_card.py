"""What a step of SDXL asks of a card: no wrong devices, no waiting, no more launches than it is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.telling import told_by

BUDGETS = {
    "calibrating, 1,024 rows": 1_000,
    "V2": 850,
    "V2, fast": 1_700,
    "int8": 850,
    "int8, fast": 1_450,
    "mixed": 850,
}
"""Launches of a step beyond a plain one's, with kernels."""
MEASURED = 2_225
"""Launches of a plain step on a card, among them those that libraries make within one operation."""


@pytest.fixture(scope="module")
def counted(comfyui: Path) -> dict[str, Any]:
    return told_by("tests.server.counted_card", comfyui)


def test_a_plain_step_is_counted_as_it_was_measured(counted: dict[str, Any]) -> None:
    plain = counted["steps"]["plain"]
    assert 0.85 * MEASURED <= plain["launches"] <= MEASURED
    assert plain["products"] == pytest.approx(13.5e12, rel=0.01) and 5.1e9 < plain["peak"] < 6e9


def test_no_step_mixes_devices_or_waits_for_the_card(counted: dict[str, Any]) -> None:
    found = {name: step["found"] for name, step in counted["steps"].items()}
    sent = found["sensitivity, a backward pass"].pop("sends")
    assert len(sent) <= 1, sent  # its random vector
    assert not {name: each for name, each in found.items() if any(each.values())}


@pytest.mark.parametrize("mode", BUDGETS)
def test_launches_stay_within_their_budget(counted: dict[str, Any], mode: str) -> None:
    steps = counted["steps"]
    assert steps[mode]["launches"] <= steps["plain"]["launches"] + BUDGETS[mode]


def test_eight_bits_take_less_of_the_card(counted: dict[str, Any]) -> None:
    steps = counted["steps"]
    assert steps["mixed"]["peak"] < steps["V2"]["peak"] < 0.62 * steps["plain"]["peak"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("a number read", "reads"),
        ("a condition", "reads"),
        ("a copy to the host", "reads"),
        ("a tensor of the CPU added", "mixed"),
        ("an index of the CPU", "mixed"),
        ("a tensor sent", "sends"),
    ],
)
def test_a_fault_in_a_hook_is_found(counted: dict[str, Any], fault: str, kind: str) -> None:
    found = counted["faults"][fault]["found"]
    assert [name for name, where in found.items() if where] == [kind]
    assert "counted_card.py" in found[kind][0]


def test_a_hook_without_fault_has_none(counted: dict[str, Any]) -> None:
    none = counted["faults"]["none"]
    assert not any(none["found"].values()) and none["launches"] == 2


def test_stand_ins_are_called_as_the_kernels_are(counted: dict[str, Any]) -> None:
    for stand_in, kernel in counted["signatures"]:
        assert stand_in == ["self", *kernel]
