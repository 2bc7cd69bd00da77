"""What a run takes, told before it: the size is the file's own, and times are those of runs that were."""

from __future__ import annotations

import json
import shutil
from typing import Any
from urllib.parse import urlencode

import pytest

from hswq_core import api, load_statistics
from hswq_core.options import QuantizeOptions
from tests.support.server import TINY_CHECKPOINT, ComfyServer
from tests.support.workflows import TINY, calibrated, node, quantize

SESSION = "estimates"


@pytest.fixture(scope="module")
def server(probing_once: ComfyServer) -> ComfyServer:
    """One that has made no run yet: others' times would be told."""
    return probing_once


OPTIONS: dict[str, Any] = {"mode": "int8", "selection": "measured", "rounding": "calibrated", "keep_ratio": 0.1}


def asked(server: ComfyServer, **more: Any) -> dict[str, Any]:
    query = {"session": SESSION, "file": TINY, "source": TINY, **OPTIONS, **more}
    return server.get(f"/hswq/curve?{urlencode(query)}")


@pytest.fixture(scope="module")
def before(server: ComfyServer) -> dict[str, Any]:
    """What is told once the model is calibrated, and nothing was measured or written yet."""
    server.run(calibrated("cal", session=SESSION, steps=3, rows=64))
    return asked(server)


@pytest.fixture(scope="module")
def report(server: ComfyServer, before: dict[str, Any]) -> dict[str, Any]:
    flow = calibrated("cal", session=SESSION, steps=3, rows=64)
    flow |= quantize(["calibrate", 1], ["cal_sampler", 0], model=["loader", 0], filename="estimated", **OPTIONS)
    return json.loads(server.run(flow)["quantize"]["report"][0])


def test_before_anything_is_measured(server: ComfyServer, before: dict[str, Any], report: dict[str, Any]) -> None:
    assert before["waiting"] and before["calibrated"]
    told = before["estimate"]
    assert told["bytes"] is None and 0 < told["least_bytes"] <= report["bytes"]
    assert told["disk_free"] == pytest.approx(shutil.disk_usage(server.output).free, rel=0.1)
    assert told["seconds"] == {"measuring": None, "rounding": None}, "no run of this kind was there"
    assert told["measuring"]["memory"] > TINY_CHECKPOINT.stat().st_size
    assert told["measuring"]["memory_of"] == told["memory_of"] == "CPU" and told["measuring"]["total"] > 1 << 30


def test_afterwards_size_error_and_times_are_those_of_the_run(server: ComfyServer, report: dict[str, Any]) -> None:
    answer = asked(server)
    told = answer["estimate"]
    assert told["bytes"] == answer["planned_bytes"] == report["bytes"]
    assert answer["planned_error"] == pytest.approx(report["predicted_error"])
    assert told["measuring"] is None and told["seconds"].keys() == {"rounding"}
    assert told["seconds"]["rounding"] > 0
    kinds = json.loads((server.output / "hswq" / "run_times.json").read_text("utf-8"))
    assert {kind.split()[0] for kind in kinds} == {"measuring", "rounding"}
    assert asked(server, rotate="true")["estimate"]["seconds"] == {"rounding": None}, "another kind of run"


def test_the_command_line_plans_the_same_size(server: ComfyServer, report: dict[str, Any]) -> None:
    statistics = load_statistics(server.output / "hswq" / f"{SESSION}.safetensors")
    assert api.plan(TINY_CHECKPOINT, statistics, QuantizeOptions(**OPTIONS)).nbytes == report["bytes"]


def test_what_is_done_is_told_while_it_is_done(server: ComfyServer, report: dict[str, Any]) -> None:
    told = [data for kind, data in server.events if kind == "hswq.progress" and data["node"] == "quantize"]
    steps = list(dict.fromkeys(data["doing"] for data in told))
    assert steps == ["measuring", "rounding", "comparing"], "choosing by what was measured takes no time"


def test_choosing_layers_is_told_where_weights_must_be_read_for_it(server: ComfyServer, report: dict[str, Any]) -> None:
    choice = {"source": TINY, "stats": ["stats", 0], "filename": "estimates_error", "overwrite": True}
    flow = {
        "stats": node("HSWQLoadStatistics", file=f"{SESSION}.safetensors"),
        "error": node("HSWQQuantize", **choice, mode="int8", selection="error", rounding="nearest", keep_ratio=0.1),
    }
    before = len(server.events)
    server.run(flow)
    told = [data for kind, data in server.events[before:] if kind == "hswq.progress" and data["node"] == "error"]
    assert list(dict.fromkeys(data["doing"] for data in told)) == ["planning", "rounding"]


def test_times_that_cannot_be_read_are_none(server: ComfyServer, report: dict[str, Any]) -> None:
    path = server.output / "hswq" / "run_times.json"
    kept = path.read_bytes()
    path.write_text("[1, 2")
    try:
        assert asked(server)["estimate"]["seconds"] == {"rounding": None}
    finally:
        path.write_bytes(kept)
