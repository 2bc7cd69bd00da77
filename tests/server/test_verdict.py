"""The verdict on the nodes: what HSWQ Quantize expects and HSWQ Compare sees, in the same words, notes apart."""

from __future__ import annotations

import json

from tests.support import workflows as w
from tests.support.server import ComfyServer


def test_quantize_and_compare_say_how_alike_the_images_are(server: ComfyServer) -> None:
    flow = w.calibrated("cal", session="verdict", steps=12, rows=64)
    flow |= w.quantize(
        ["calibrate", 1], ["cal_sampler", 0], mode="int8", selection="measured", filename="verdict",
        model=["loader", 0],
    )  # fmt: skip
    flow["opened"] = w.node("HSWQLoader", ckpt_name=w.TINY, path=["quantize", 0])
    flow |= w.sampling(["opened", 0], ["loader", 1], ["loader", 2], "ours", steps=12)
    flow["compare"] = w.node("HSWQCompare", reference=["cal_decode", 0], candidate=["ours_decode", 0])
    outputs = server.run(flow)
    (expected,), report = outputs["quantize"]["hswq_verdict"], json.loads(outputs["quantize"]["report"][0])
    assert expected["text"] == report["verdict"] and expected["path"] == report["file"]
    assert "image expected (error of the output" in expected["text"] and " MB instead of 11.5." in expected["text"]
    assert expected["tone"] in ("good", "fair") and report["measured_error"] > 0
    few = "the calibration has only 1 image; 32 are recommended"
    assert expected["notes"] == [few] == report["notes"] and few not in expected["warnings"]
    (seen,), (pair,) = outputs["compare"]["hswq_verdict"], outputs["compare"]["hswq_compare"]
    assert seen["text"].startswith("Practically the same image (SSIM 0.9") and seen["tone"] == "good"
    assert pair["ssim"].startswith("0.9") and seen["action"] is None
    # What app mode shows, where nodes are not seen.
    for node, verdict in (("quantize", expected), ("compare", seen)):
        (shown,) = outputs[node]["hswq_app"]
        assert shown["type"] == "temp" and shown["filename"].endswith(".txt")
        lines = (server.base / "temp" / shown["filename"]).read_text(encoding="utf-8").split("\n")
        assert lines[0] == verdict["text"]
        assert node == "compare" or lines[1].startswith(f"{expected['name']}: ")

    # Another format, which was not measured, has a verdict, too: what was written is looked at.
    flow["quantize"]["inputs"] |= {"mode": "v1", "filename": "verdict_v1"}
    outputs = server.run(flow)
    report = json.loads(outputs["quantize"]["report"][0])
    assert report["predicted_error"] is None and report["measured_error"] > 0
    assert "image expected (error of the output" in outputs["quantize"]["hswq_verdict"][0]["text"]


def test_an_image_compared_with_itself_is_told(server: ComfyServer) -> None:
    flow = w.plain("same", steps=2)
    flow["compare"] = w.node("HSWQCompare", reference=["same_decode", 0], candidate=["same_decode", 0])
    (said,) = server.run(flow)["compare"]["hswq_verdict"]
    assert said["text"].startswith("Identical image (SSIM 1.00).") and "the wrong one is connected" in said["text"]
