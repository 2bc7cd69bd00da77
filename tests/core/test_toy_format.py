"""A format is one file: one that is registered goes the whole path without a change anywhere else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hswq_core import formats
from hswq_core.api import convert, inspect, plan, quantize
from hswq_core.cli import main
from hswq_core.grids import INT8
from hswq_core.publishing import About, publish
from tests.core.conftest import Example
from tests.toy_format import toy


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    formats.register(toy(formats, INT8))
    yield
    del formats.FORMATS["toy"]


def test_it_is_quantized_to_inspected_and_converted(example: Example, tmp_path: Path) -> None:
    path, options = tmp_path / "toy.safetensors", {"mode": "toy", "keep_ratio": 0.2, "rounding": "calibrated"}
    planned = plan(example.path, example.statistics, **options)
    report = quantize(example.path, path, example.statistics, **options)
    assert report.bytes == planned.nbytes == path.stat().st_size
    found = inspect(path)
    assert (found.format, found.grid, found.metadata["hswq.mode"]) == ("toy", "INT8", "toy")
    assert found.metadata["modelspec.usage_hint"] == "Play with it."
    assert set(found.quantized) == {layer.layer for layer in planned.quantized}

    for to in ("int8", "toy"):
        again = convert(path, tmp_path / f"again_{to}.safetensors", to)
        assert set(again.quantized) and not again.expanded and inspect(again.file).format == to
    plain = convert(path, tmp_path / "fp16.safetensors", "fp16")
    tensors = load_file(plain.file)
    for key in report.plan.quantized:
        weight = example.tensors[key.key].float()
        assert torch.nn.functional.mse_loss(tensors[key.key].float(), weight) < 1e-4 * weight.square().mean()


def test_the_command_line_and_the_card_know_it(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    assert main(["quantize", str(example.path), str(path), "--mode", "toy", "--keep-ratio", "0"]) == 0
    folder = publish(path, tmp_path / "card", About()).folder
    assert "It opens in *HSWQ Loader*." in (folder / "README.md").read_text(encoding="utf-8")


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="toy"):
        formats.register(toy(formats, INT8))
