"""The comparison with the original where one of the two is damaged, incomplete, or of other shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hswq_core import diagnose
from hswq_core.doctor.comparison import Comparison
from hswq_core.doctor.contents import opened
from hswq_core.errors import CheckpointError
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers
from tests.core.capabilities import needs_gguf
from tests.core.test_doctor_gguf import written

PATH = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
LAYER, KEPT = f"{files.UNET}{PATH}", f"{files.UNET}input_blocks.0.0"
Change = Callable[[files.Tensors], None]


def compared(folder: Path, file: files.Tensors, original: files.Tensors) -> Comparison:
    """Of which all is JSON, whoever reads it."""
    path = files.save(folder, file)
    found = diagnose(path, original=files.save(folder, original, name="the original"))
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.comparison is not None
    return found.comparison


def v2(change: Change = lambda _: None) -> files.Tensors:
    tensors = files.each(files.scaled(".scale"))
    change(tensors)
    return tensors


def original(change: Change = lambda _: None) -> files.Tensors:
    tensors = files.original()
    change(tensors)
    return tensors


def one_nan_code(tensors: files.Tensors) -> None:
    tensors[f"{LAYER}.weight"].view(torch.uint8)[0, 0] = 0x7F


def infinite(name: str) -> Change:
    def change(tensors: files.Tensors) -> None:
        tensors[f"{name}.weight"].view(-1)[0] = math.inf

    return change


def zero(tensors: files.Tensors) -> None:
    tensors[f"{LAYER}.weight"].zero_()


NOT_FINITE, ORIGINAL, ZERO = (
    "its weights are not finite", "the original's weights are not finite", "the original's weights are zero",
)  # fmt: skip
WITHOUT_ERROR: dict[str, tuple[files.Tensors, files.Tensors, str, str]] = {
    "a code is NaN": (v2(one_nan_code), original(), LAYER, NOT_FINITE),
    "a kept weight is infinite": (v2(infinite(KEPT)), original(), KEPT, NOT_FINITE),
    "the original is infinite": (v2(), original(infinite(LAYER)), LAYER, ORIGINAL),
    "both are infinite": (v2(infinite(KEPT)), original(infinite(KEPT)), KEPT, ORIGINAL),
    "the original is zero": (v2(), original(zero), LAYER, ZERO),
}


@pytest.mark.parametrize("what", WITHOUT_ERROR)
def test_a_layer_without_an_error_is_named_with_the_reason(what: str, tmp_path: Path) -> None:
    file, source, layer, why = WITHOUT_ERROR[what]
    found = compared(tmp_path, file, source)
    path = layer.removeprefix(files.UNET)
    assert found.undecoded == {path: why} and 5e-4 < found.mean_weight_error < 4e-3
    assert path not in [each.layer for each in found.worst]
    assert f"1 layers cannot be compared: {why} ({path})" in str(found)


def test_a_layer_that_is_zero_in_both_is_unchanged(tmp_path: Path) -> None:
    found = compared(tmp_path, original(zero), original(zero))
    assert found.unchanged == 9 and not found.undecoded


@needs_gguf
@pytest.mark.filterwarnings("error")
def test_a_damaged_block_of_gguf_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "Q8_0")
    block = diagnose(path).groups[0].group.layers[0]
    data = bytearray(path.read_bytes())
    with opened(path) as contents:
        begin = contents.tensors[block.codes].begin
    data[begin : begin + 2] = b"\x00\x7c"  # the block's scale, infinity in F16
    path.write_bytes(data)
    found = diagnose(path, original=files.save(tmp_path, files.original(), name="original"))
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.comparison is not None and found.comparison.undecoded == {block.name: NOT_FINITE}


def without(*names: str) -> Change:
    def change(tensors: files.Tensors) -> None:
        for key in [key for key in tensors if key.startswith(names)]:
            del tensors[key]

    return change


def fused(tensors: files.Tensors) -> None:
    """Two layers of a block as one, as Nunchaku has them."""
    without(f"{LAYER}.")(tensors)
    tensors[f"{LAYER}kv.weight"] = torch.ones(128, 256).half()


LACKING: dict[str, tuple[files.Tensors, list[str]]] = {
    "all layers are there": (v2(), []),
    "a layer is gone": (v2(without(f"{LAYER}.")), [PATH]),
    "codes are gone, and their scale is not": (v2(without(f"{LAYER}.weight")), [PATH]),
    "a layer is stored in another way": (files.each(peers.quanto), []),
    "a layer is stored with others": (v2(fused), []),
}


@pytest.mark.parametrize("what", LACKING)
def test_layers_of_the_original_that_are_not_here(what: str, tmp_path: Path) -> None:
    file, lacking = LACKING[what]
    found = compared(tmp_path, file, original())
    assert list(found.lacking) == found.as_dict()["lacking"] == lacking
    assert (f"1 layers of the original are not here, as {PATH}" in str(found)) == bool(lacking)


WEIGHT = files.original()[f"{LAYER}.weight"]
SHAPES: dict[str, tuple[torch.Tensor, bool]] = {
    "as it is": (WEIGHT, True),
    "a convolution of 1 x 1": (WEIGHT[:, :, None, None], True),
    "turned": (WEIGHT.t(), False),
    "other rows": (WEIGHT.reshape(128, 128), False),
    "a one between": (WEIGHT[:, None], False),
    "flat": (WEIGHT.flatten(), False),
}


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.parametrize("here", [True, False])
def test_only_ones_at_the_end_of_a_shape_may_differ(what: str, here: bool, tmp_path: Path) -> None:
    weight, same = SHAPES[what]
    other = files.original() | {f"{LAYER}.weight": weight}
    found = compared(tmp_path, *((other, original()) if here else (original(), other)))
    if same:
        assert found.unchanged == 9 and not found.undecoded
    elif what == "flat" and not here:  # no layer
        assert found.missing == (LAYER,)
    else:
        assert "another shape" in found.undecoded[PATH] and found.unchanged == 8 and not found.lacking


def test_groups_of_quanto_have_no_shape_of_their_own(tmp_path: Path) -> None:
    def grouped(name: str, weight: torch.Tensor) -> files.Tensors:
        return peers.quanto_int4(name, weight.reshape(-1, 64))

    found = compared(tmp_path, files.each(grouped), original())
    assert len(found.layers) == 7 and not found.undecoded


PARTS = {
    "a text encoder": {"shared.weight": WEIGHT, "encoder.block.0.q.weight": WEIGHT.clone()},
    "a VAE": {"decoder.conv_in.weight": torch.ones(8, 4, 3, 3).half()},
    "a text encoder under its prefix": {f"{files.TEXT}encoder.layers.0.mlp.fc1.weight": WEIGHT},
}


@pytest.mark.parametrize("what", PARTS)
def test_only_diffusion_models_are_compared(what: str, tmp_path: Path) -> None:
    path = files.save(tmp_path, PARTS[what])
    with pytest.raises(CheckpointError, match="only diffusion models are compared"):
        diagnose(path, original=path)
