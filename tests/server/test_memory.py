"""What our work takes of a card is asked of ComfyUI before it begins, and fits an 8 GB card with SDXL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hswq_core.calibration.monitor import DEVICE_MEMORY
from hswq_core.sensitivity.gradient import KEPT_MEMORY
from tests.support.telling import told_by

CARD, SPARE = 8 << 30, 500_000_000


@pytest.fixture(scope="module")
def planned(comfyui: Path) -> dict[str, Any]:
    return told_by("tests.server.planned_memory", comfyui)


def test_a_calibrated_run_of_sdxl_fits_an_8_gb_card(planned: dict[str, Any]) -> None:
    """Weights in FP16, ComfyUI's estimate for a step of 1024 x 1024 with guidance, and ours with 1,024 rows a layer."""
    sdxl = planned["sdxl"]
    assert sdxl["calibrated"] - sdxl["plain"] == DEVICE_MEMORY and sdxl["kept_its_arguments"]
    assert sdxl["weights"] > 5e9
    assert sdxl["weights"] + sdxl["calibrated"] <= CARD - SPARE


def test_room_is_made_before_the_first_call_and_not_after(planned: dict[str, Any]) -> None:
    asked = planned["asked"]
    for events in asked.values():
        assert isinstance(events[0], int) and "call" in events, events
    assert asked["calibrated"][0] - asked["plain"][0] == DEVICE_MEMORY
    assert asked["gradient"][0] - asked["exact"][0] == KEPT_MEMORY and asked["exact"][0] > 0


def test_quantizing_asks_for_room_on_a_card_alone(planned: dict[str, Any]) -> None:
    assert planned["room"] == [[1000, "cuda:0"]]


def test_a_reservation_ends_with_the_run_that_made_it(planned: dict[str, Any]) -> None:
    assert planned["left"] == [207, 208, 207, 200, 0]


def test_a_lora_is_kept_beside_its_weight_and_a_merge_is_not(planned: dict[str, Any]) -> None:
    assert planned["near"] == [[128, "meta"], [0, "cpu"], [0, "cpu"], [0, "cpu"]]
