"""From a checkpoint and statistics to an FP8 file, read back with the official library."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core.errors import CheckpointError, PlanError, StatisticsError, TargetError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.grids import E4M3
from hswq_core.options import QuantizeOptions
from hswq_core.parallel import workers_on
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import Report, quantize_checkpoint
from tests.core.conftest import PREFIX, Example, make_example

FP8 = torch.float8_e4m3fn


def run(
    example: Example, target: Path, mode: str, keep_ratio: float = 0.25, scales: str = "tensor", **options: object
) -> Report:
    with CheckpointReader(example.path) as source:
        plan = make_plan(
            match_source(source, example.statistics), QuantizeOptions(mode=mode, keep_ratio=keep_ratio, scales=scales)
        )
        return quantize_checkpoint(match_source(source, example.statistics), plan, target, **options)


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def assert_untouched(example: Example, written: dict[str, torch.Tensor], quantized: set[str]) -> None:
    for key, tensor in example.tensors.items():
        if key not in quantized:
            assert written[key].dtype == tensor.dtype
            assert torch.equal(written[key].view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_file_matches_its_format(example: Example, tmp_path: Path, mode: str) -> None:
    target = tmp_path / "out.safetensors"
    report = run(example, target, mode)
    written = load_file(target)
    quantized = {key for key, tensor in written.items() if tensor.dtype == FP8}
    assert_untouched(example, written, quantized)
    added = written.keys() - example.tensors.keys()
    layers = {key.removesuffix(".weight") for key in quantized}
    for layer in layers:
        source, codes = example.tensors[f"{layer}.weight"], written[f"{layer}.weight"]
        if mode == "v1":
            assert torch.equal(codes.view(torch.uint8), source.float().to(FP8).view(torch.uint8))
            continue
        scale = written[f"{layer}.scale" if mode == "v2" else f"{layer}.weight_scale"]
        assert scale.dtype == torch.float32 and scale.shape == ((1,) if mode == "v2" else ())
        assert torch.equal(codes.view(torch.uint8), E4M3.quantize(source, scale).view(torch.uint8))
        assert float((codes.float() * scale - source.float()).abs().max()) <= float(source.abs().max()) * 0.51
    if mode == "v1":
        assert not added
    elif mode == "v2":
        assert added == {f"{layer}.scale" for layer in layers}
    else:
        assert PREFIX + "conv.weight" not in quantized
        assert added == {f"{layer}{s}" for layer in layers for s in (".weight_scale", ".comfy_quant")}
        for layer in layers:
            conf = json.loads(bytes(written[f"{layer}.comfy_quant"].tolist()))
            assert conf == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    assert len(report.plan.quantized) == len(quantized)
    assert len(report.plan.kept) + len(report.plan.quantized) == 11
    assert report.bytes == target.stat().st_size
    unet = sum(t.nbytes for k, t in written.items() if k.startswith(PREFIX))
    assert report.plan.unet_bytes == unet


def test_every_output_channel_can_have_a_scale(example: Example, tmp_path: Path) -> None:
    whole, each = tmp_path / "tensor.safetensors", tmp_path / "channel.safetensors"
    example.statistics = replace(example.statistics, fingerprint=None)  # the weights change
    for layer in ("blocks.3.weight", "conv.weight"):  # rows of very different sizes, one of them zero
        weight = example.tensors[PREFIX + layer]
        weight *= torch.logspace(-3, 0, len(weight)).view(-1, *[1] * (weight.dim() - 1))
        weight[5] = 0
    save_file(example.tensors, example.path)
    plain, found = (run(example, path, "v2", 0.0, scales) for path, scales in ((whole, "tensor"), (each, "channel")))
    assert found.plan.scales == "channel" and header(each)["hswq.scales"] == "channel"
    assert found.weighted_error < 0.9 * plain.weighted_error
    assert found.bytes == each.stat().st_size
    written, total = load_file(each), 0.0
    for layer, statistics in example.statistics.layers.items():
        source, codes = example.tensors[f"{PREFIX}{layer}.weight"].float(), written[f"{PREFIX}{layer}.weight"]
        scale = written[f"{PREFIX}{layer}.scale"]
        assert codes.dtype == FP8 and scale.dtype == torch.float32 and scale.shape == (len(source),)
        broad = scale.view(-1, *[1] * (source.dim() - 1))
        assert torch.equal(codes.view(torch.uint8), E4M3.quantize(source, broad).view(torch.uint8))
        lost = (codes.float() * broad - source).square().double()
        total += float((lost.movedim(1, -1) @ statistics.importance).sum())
    assert found.weighted_error == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("mode", ["v1", "comfy"])
def test_formats_without_a_scale_for_each_channel_refuse_it(example: Example, tmp_path: Path, mode: str) -> None:
    with pytest.raises(PlanError, match="Choose v2"):
        run(example, tmp_path / "out.safetensors", mode, 0.0, "channel")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_layers_with_the_largest_output_variance_are_kept(example: Example, tmp_path: Path) -> None:
    report = run(example, tmp_path / "out.safetensors", "v1", keep_ratio=0.27)
    variance = {n: layer.sensitivity for n, layer in example.statistics.layers.items()}
    expected = sorted(variance, key=lambda n: variance[n], reverse=True)[:3]
    assert {layer.layer for layer in report.plan.kept} == set(expected)
    meta = header(tmp_path / "out.safetensors")
    assert set(json.loads(meta["hswq.kept_layers"])) == set(expected)


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 0), (1.0, 11), (0.25, 3), (0.1, 2)])
def test_keep_ratio_counts_layers(example: Example, tmp_path: Path, ratio: float, kept: int) -> None:
    assert run(example, tmp_path / "out.safetensors", "v2", keep_ratio=ratio).kept_layers == kept


def test_metadata_tells_how_the_file_was_made_and_keeps_the_sources(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path / "out.safetensors", "v2", keep_ratio=0.1)
    meta = header(tmp_path / "out.safetensors")
    assert meta["title"] == "example"
    assert meta["hswq.mode"] == "v2" and meta["hswq.keep_ratio"] == "0.1" and meta["hswq.selection"] == "variance"
    assert meta["hswq.statistics_fingerprint"] == example.statistics.digest()
    assert meta["hswq.source_fingerprint"] == example.statistics.fingerprint.digest  # type: ignore[union-attr]
    assert {"hswq.rounding", "hswq.format_version", "hswq.tool_version"} <= meta.keys()


def test_v2_search_lowers_the_weighted_error(example: Example, tmp_path: Path) -> None:
    report = run(example, tmp_path / "out.safetensors", "v2", keep_ratio=0.0)
    assert report.weighted_error < report.weighted_error_plain_cast


def test_the_same_input_gives_the_same_bytes(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path / "a.safetensors", "v2")
    run(example, tmp_path / "b.safetensors", "v2")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_source_types_and_a_bare_diffusion_model(tmp_path: Path, dtype: torch.dtype) -> None:
    example = make_example(tmp_path)
    bare = {k.removeprefix(PREFIX): v.to(dtype) for k, v in example.tensors.items() if k.startswith(PREFIX)}
    save_file(bare, example.path)
    example.tensors = bare
    target = tmp_path / "out.safetensors"
    assert run(example, target, "v2").quantized_layers == 8
    written = load_file(target)
    assert_untouched(example, written, {k for k, t in written.items() if t.dtype == FP8})


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".") or "out" in p.name]


def test_an_existing_target_is_left_alone_unless_told(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(TargetError, match="exists already"):
        run(example, target, "v1")
    assert target.read_bytes() == b"precious" and leftovers(tmp_path) == [target.name]
    run(example, target, "v1", overwrite=True)
    assert load_file(target)


def test_cancel_leaves_nothing(example: Example, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(example, tmp_path / "out.safetensors", "v2", progress=stop)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(example: Example, tmp_path: Path, value: float) -> None:
    key = PREFIX + "blocks.0.weight"
    example.tensors[key][3, 3] = value
    save_file(example.tensors, example.path)
    with pytest.raises(CheckpointError, match=r"blocks\.0"):
        run(example, tmp_path / "out.safetensors", "v2")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_bad_keep_ratio(example: Example, tmp_path: Path, ratio: float) -> None:
    with pytest.raises(PlanError, match="keep ratio"):
        run(example, tmp_path / "out.safetensors", "v2", keep_ratio=ratio)
    assert not leftovers(tmp_path)


def test_statistics_without_a_run_or_of_another_model(example: Example, tmp_path: Path) -> None:
    from hswq_core.calibration import Statistics

    other = make_example(tmp_path, seed=1)
    for statistics, message in ((Statistics(layers={}), "no run"), (other.statistics, "another model")):
        example.statistics = statistics
        with pytest.raises(StatisticsError, match=message):
            run(example, tmp_path / "out.safetensors", "v2")
    assert not leftovers(tmp_path)


def test_on_a_card_no_more_layers_are_worked_on_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    card, largest = torch.device("cuda", 0), 10 << 20
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 300 << 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 200 << 20)
    found = []
    for free in (0, 600 << 20, 4 << 30):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=free: (free, 8 << 30))
        found.append(workers_on(card, largest))
    assert found == [1, 2, 4] and workers_on(torch.device("cpu"), largest) == 4
