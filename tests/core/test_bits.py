"""Fewer than 8 bits: packing, scales for groups, calibrated rounding, and the choice of each layer's bits."""

import itertools
import math

import pytest
import torch

from hswq_core.formats import FORMATS, Form
from hswq_core.formats.packing import pack, packed_columns, unpack
from hswq_core.formats.stored_layer import PACKED_BITS
from hswq_core.grids import INT2, INT3, INT4, INT5, INT6, Grid
from hswq_core.grids.group_scales import GROUP, search_group_scales
from hswq_core.inference.packed import dequantize_packed
from hswq_core.planning.bits import Choice, errors_along, knee, upgrades, within_bytes
from hswq_core.rounding.weight import quantize_weight, scale_like

FORMS = FORMATS["mixed"].forms


def read_by_hand(row: bytes, bits: int, columns: int) -> list[int]:
    """A row of codes, read as docs/formats.md says."""
    values, begin, shift = [0] * columns, 0, 0
    for width in (4, 2, 1):
        if not bits & width:
            continue
        for column in range(columns):
            byte = row[begin + column * width // 8]
            values[column] |= (byte >> (column * width % 8) & (2**width - 1)) << shift
        begin, shift = begin + math.ceil(columns * width / 8), shift + width
    assert begin == len(row)
    return [value - 2 ** (bits - 1) for value in values]


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("columns", [1, 7, 64, 65, 130])
def test_packed_codes_are_read_as_the_documentation_says(bits: int, columns: int, device: torch.device) -> None:
    most = 2 ** (bits - 1) - 1
    codes = torch.randint(
        -most, most + 1, (5, columns), dtype=torch.int8, generator=torch.Generator().manual_seed(bits)
    )
    packed = pack(codes.to(device), bits)
    assert packed.dtype == torch.uint8 and packed.shape == (5, packed_columns(columns, bits))
    assert [read_by_hand(bytes(row.tolist()), bits, columns) for row in packed.cpu()] == codes.tolist()
    assert torch.equal(unpack(packed, bits, columns).cpu(), codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(4, 64), (3, 90), (5, 3, 3, 3), (2, 128, 1, 1)])
def test_expanded_weights_are_codes_times_scales(
    dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(3)
    columns = math.prod(shape[1:])
    for bits in PACKED_BITS.values():
        most = 2 ** (bits - 1) - 1
        codes = torch.randint(-most, most + 1, (shape[0], columns), dtype=torch.int8, generator=generator)
        scale = (torch.rand(shape[0], math.ceil(columns / GROUP), generator=generator) + 0.1).half()
        found = dequantize_packed(pack(codes, bits).to(device), scale.to(device), bits, shape, dtype)
        expected = codes.float() * scale.float().repeat_interleave(GROUP, 1)[:, :columns]
        assert found.is_contiguous() and torch.equal(found.cpu(), expected.view(shape).to(dtype)), bits


@pytest.mark.parametrize("grid", [INT2, INT3, INT4, INT5, INT6], ids=lambda grid: grid.name)
@pytest.mark.parametrize("shape", [(6, 100), (5, 3, 3, 3), (4, 64), (3, 200, 1)])
def test_group_scales_beat_the_largest_value(grid: Grid, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator).half()
    weight[0, :2] = 0
    importance = torch.rand(shape[1], generator=generator) + 0.1
    scale, error = search_group_scales(weight, importance, grid)
    columns = math.prod(shape[1:])
    assert scale.dtype == torch.float16 and scale.shape == (shape[0], math.ceil(columns / GROUP))
    # By hand, in float64: the error of these scales, and of the largest magnitude of each group.
    wide = weight.flatten(1).double()
    each = importance.double().repeat_interleave(columns // shape[1])
    found = plain = 0.0
    for row, group in itertools.product(range(shape[0]), range(scale.shape[1])):
        values, w = (t[..., group * GROUP : (group + 1) * GROUP] for t in (wide[row], each))
        steps = (float(scale[row, group]), float(values.abs().max()) / grid.largest or 1.0)
        lost = [
            float((((values / step).round().clamp(-grid.largest, grid.largest) * step - values).square() * w).sum())
            for step in steps
        ]
        found, plain = found + lost[0], plain + lost[1]
    assert error == pytest.approx(found, rel=1e-3) and found <= plain * 1.01


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("shape", [(24, 100), (16, 12, 3, 3)])
def test_calibrated_rounding_lowers_the_error_of_the_output(
    form: Form, shape: tuple[int, ...], device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(shape, generator=generator)
    columns = math.prod(shape[1:])
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    rows = (torch.randn(400, columns, generator=generator) @ mixing).half()
    second = rows.double().square().mean(0).view(shape[1], -1).mean(1)
    importance = second.sqrt().float()
    options = {"grid": form.grid, "scaling": form.scaling, "importance": importance}
    nearest = quantize_weight(weight.to(device), **options)  # type: ignore[arg-type]
    found = quantize_weight(weight.to(device), **options, rows=rows, second_moment=second)  # type: ignore[arg-type]

    def output_error(codes: torch.Tensor, scale: torch.Tensor) -> float:
        change = codes.cpu().double() * scale_like(weight, scale.cpu()).double() - weight.double()
        return float((rows.double() @ change.flatten(1).t()).square().sum())

    assert torch.equal(found.scale, nearest.scale) and int(found.codes.abs().max()) <= form.grid.largest
    ratio = output_error(found.codes, found.scale) / output_error(nearest.codes, nearest.scale)
    assert found.gain is not None and ratio < found.gain < 0.85  # which counts the damping, too


def choices(*points: tuple[int, float]) -> list[Choice]:
    return [Choice(None, nbytes, impact) for nbytes, impact in points]


def test_upgrades_follow_the_hull_and_the_best_come_first() -> None:
    layers = {
        "a": choices((10, 8.0), (20, 7.9), (30, 1.0), (60, 0.0)),  # 20 lies above the hull
        "b": choices((10, 3.0), (20, 1.0), (40, 0.5)),
        "c": choices((10, 1.0), (20, 2.0)),  # more bytes, more error
    }
    path = upgrades(layers)
    assert [(u.layer, u.choice.nbytes, u.nbytes) for u in path] == [
        ("a", 30, 20), ("b", 20, 10), ("a", 60, 30), ("b", 40, 20),
    ]  # fmt: skip
    assert errors_along(path, 12.0) == pytest.approx([12.0, 5.0, 3.0, 2.0, 1.5])
    assert {k: c.nbytes for k, c in within_bytes(path, 35).items()} == {"a": 30, "b": 20}
    assert {k: c.nbytes for k, c in within_bytes(path, 15).items()} == {"b": 20}


def test_the_choice_is_nearly_the_best_there_is() -> None:
    """Against all combinations: greedy along the hull misses at most one upgrade of one layer."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in "abcde":
        size, harm = (float(x) for x in torch.rand(2, generator=generator).mul(9).exp())
        layers[name] = choices(
            (int(4 * size) + 4, harm), (int(6 * size) + 6, harm / 15), (int(8 * size) + 9, harm / 200)
        )
    path = upgrades(layers)
    most = max(upgrade.nbytes for upgrade in path)
    smallest = sum(min(c.nbytes for c in each) for each in layers.values())
    for allowed in range(smallest, smallest + sum(u.nbytes for u in path) + 1, 97):
        taken = within_bytes(path, allowed - smallest)
        ours = sum((taken.get(n) or each[0]).impact for n, each in layers.items())
        fitting = [c for c in itertools.product(*layers.values()) if sum(e.nbytes for e in c) <= allowed - most]
        best = min((sum(e.impact for e in c) for c in fitting), default=math.inf)
        assert ours <= best * (1 + 1e-9)


def test_the_knee_is_where_bytes_stop_paying() -> None:
    sizes = list(range(0, 1100, 100))
    errors = [10.0 ** -(2 + (0.8 * n if n <= 4 else 3.2 + 0.1 * (n - 4))) for n in range(11)]
    assert knee(sizes, errors) == 4
