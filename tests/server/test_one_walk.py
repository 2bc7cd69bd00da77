"""What is found out about a source is found out once in a run of HSWQ Quantize."""

import json

import pytest

from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.layers import find_layers
from tests.support import workflows as w
from tests.support.odd_folder import CALIBRATED
from tests.support.server import TINY_CHECKPOINT, ComfyServer


@pytest.mark.parametrize("connected", [False, True])
def test_a_source_is_walked_once(probing_once: ComfyServer, connected: bool) -> None:
    name = f"walk_{connected}"
    flow = w.calibrated("cal", session=name, steps=1)
    flow["begin"] = w.node("ProbeTrace", name="", after=["cal_sampler", 0])
    model = {"model": ["loader", 0]} if connected else {}
    flow |= w.quantize(["calibrate", 1], ["begin", 0], source=CALIBRATED, filename=name, **model)
    flow["end"] = w.node("ProbeTrace", name=name, after=["quantize", 0])
    probing_once.run(flow)
    entered = json.loads((probing_once.output / f"{name}.json").read_text(encoding="utf-8"))
    with CheckpointReader(TINY_CHECKPOINT) as reader:
        layers = len(find_layers(reader).weights)
    assert entered["elements"] == layers  # the fingerprint, once
    assert 0 < entered["planning/make_plan.py"] <= 3
    assert 0 < entered["planning/source_check.py"] <= 2
