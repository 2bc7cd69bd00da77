"""Values of another kind than a socket's, as scripts post them: one plain error, and the server goes on."""

from typing import Any

import pytest

from tests.support import workflows as w
from tests.support.server import ComfyServer, ExecutionError

DRAWING = {
    "sampler_name": "euler", "scheduler": "normal", "width": 256, "height": 256, "steps": 1, "cfg": 1.0, "seed": 0,
    "prompts": "apple", "negative": "",
}  # fmt: skip
MODEL, CLIP, VAE, STATS, IMAGE = ["loader", 0], ["loader", 1], ["loader", 2], ["calibrate", 1], ["image", 0]
QUANTIZE = w.quantize(STATS)["quantize"]["inputs"]
GOOD: dict[str, dict[str, Any]] = {
    "HSWQCalibrate": {"model": MODEL, "session": "kinds", "rows_per_layer": 0, "reset": False},
    "HSWQCalibrateRun": DRAWING
    | {"model": MODEL, "clip": CLIP, "samples": 1, "session": "kinds", "rows_per_layer": 0, "latent": None},
    "HSWQMeasureSensitivity": {"model": MODEL, "stats": STATS, "mode": "v2", "probes": 1},
    "HSWQQuantize": QUANTIZE | {"model": MODEL, "clip": CLIP, "vae": VAE, "force_keep": "", "thumbnail": IMAGE},
    "HSWQReport": {"stats": STATS, "keep_ratio": 0.25},
    "HSWQMergeStatistics": {"a": STATS, "b": STATS},
    "HSWQCompare": {"reference": IMAGE, "candidate": IMAGE},
    "HSWQProve": DRAWING | {"reference": MODEL, "candidate": MODEL, "clip": CLIP, "vae": VAE, "seeds": 1},
    "HSWQPublish": {"path": "nothing.safetensors", "title": "", "author": "", "licence": ""},
    "HSWQDoctor": {"file": w.TINY, "original": w.TINY, "stats": STATS, "path": ""},
    "HSWQLoader": {"ckpt_name": w.TINY, "path": "nothing.safetensors"},
}
WRONG = (5, "text", None, {"__value__": [1, 2]}, {"a": 1})
RAW = ("AttributeError", "TypeError", "KeyError", "IndexError", "ValueError", "UnicodeEncodeError", "AssertionError")


def flow_with(node: str, **inputs: Any) -> w.Workflow:
    base = {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "calibrate": w.node("HSWQCalibrate", **GOOD["HSWQCalibrate"]),
        "image": w.node("EmptyImage", width=64, height=64, batch_size=1, color=0),
    }
    given = {key: value for key, value in (GOOD[node] | inputs).items() if value is not None or key in inputs}
    flow = base | {"node": w.node(node, **given)}
    flow["shown"] = w.node("PreviewAny", source=["node", 0])
    return flow


@pytest.mark.parametrize("node", GOOD)
def test_a_value_of_another_kind_is_refused_in_plain_words(server: ComfyServer, node: str) -> None:
    sockets = [name for name, value in GOOD[node].items() if isinstance(value, list) or value is None]
    sockets += [name for name in ("filename", "force_keep", "session", "prompts", "title") if name in GOOD[node]]
    for name in sockets:
        for value in WRONG:
            try:
                server.run(flow_with(node, **{name: value}), timeout=60)
            except ExecutionError as error:
                kind = str(error.details.get("exception_type", "")).rpartition(".")[2]
                assert kind not in RAW, f"{node}, {name} = {value!r}: {error}"


def test_a_socket_that_holds_a_text(server: ComfyServer) -> None:
    with pytest.raises(ExecutionError, match=r"HSWQ Calibrate, model: this is to be a MODEL, and is 'text'"):
        server.run(flow_with("HSWQCalibrate", model="text"))
    with pytest.raises(ExecutionError, match=r"HSWQ Quantize, stats: this is to be statistics, and is 5"):
        server.run(flow_with("HSWQQuantize", stats=5))
