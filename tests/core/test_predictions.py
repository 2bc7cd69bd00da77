"""What a file will do to the model's output, told before it is written: by plans, files and curves."""

import json
from pathlib import Path

import pytest

from hswq_core import inspect, quantize
from hswq_core.api import plan, size_curve
from hswq_core.calibration import save_statistics
from hswq_core.cli import main
from hswq_core.formats import FORMATS
from hswq_core.options import MODEL_CARD, QuantizeOptions
from hswq_core.planning.error_curve import ErrorCurve
from hswq_core.planning.measured_curves import card_point, measured_curves
from hswq_core.planning.preview import preview
from hswq_core.planning.size_curve import SizeCurve

from .conftest import Example

FORMS = {"v2 nearest": 1e-4, **{f"{form.name} nearest": 1e-2 * 4.0**-form.bits for form in FORMATS["mixed"].forms}}


@pytest.fixture
def measured(example: Example) -> Example:
    """The example with impacts for V2 and for mixed: each layer's twice that of the one before it."""
    for purpose, impact in FORMS.items():
        impacts = {name: impact * 2.0**place for place, name in enumerate(sorted(example.statistics.layers))}
        example.statistics = example.statistics.with_impacts(impacts, purpose)
    return example


@pytest.mark.parametrize(
    "options", [{"keep_ratio": 0.3}, {"budget": "60%"}, {"keep_ratio": 0.3, "selection": "variance"}]
)
def test_a_plan_predicts_the_sum_of_what_it_quantizes(
    measured: Example, tmp_path: Path, options: dict[str, object]
) -> None:
    path = tmp_path / "v2.safetensors"
    report = quantize(measured.path, path, measured.statistics, mode="v2", **{"selection": "measured", **options})
    impacts = measured.statistics.impacts("v2 nearest")
    expected = sum(impacts[layer.layer] for layer in report.plan.quantized)
    assert report.plan.predicted_error == pytest.approx(expected)
    assert inspect(path).predicted_error == pytest.approx(expected, rel=1e-3)
    assert report.bytes == path.stat().st_size == report.plan.nbytes
    if "budget" in options:
        assert report.bytes <= 0.6 * measured.path.stat().st_size
    assert f"predicted error {expected:.2g}" in report.plan.summary


def test_nothing_is_predicted_that_was_not_measured(measured: Example) -> None:
    for options in ({"mode": "v2", "rounding": "calibrated"}, {"mode": "v1", "selection": "measured"}):
        made = plan(measured.path, measured.statistics, QuantizeOptions(**options))  # type: ignore[arg-type]
        assert made.predicted_error is None and made.card is None and not made.sizes
        assert "hswq.predicted_error" not in made.metadata()


def test_the_model_cards_file_is_beside_it(measured: Example, capsys: pytest.CaptureFixture[str]) -> None:
    card = plan(measured.path, measured.statistics, mode="v2", keep_ratio=0.1)
    made = plan(measured.path, measured.statistics, mode="mixed", target="1e-3")
    assert made.card is not None and made.card.nbytes == card.nbytes
    assert made.card.predicted_error == card.predicted_error
    save_statistics(measured.statistics, measured.statistics_path)
    command = ["quantize", str(measured.path), "x.safetensors", "--stats", str(measured.statistics_path), "--dry-run"]
    assert main([*command, "--mode", "mixed"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("the model card's"))
    assert f"{card.nbytes:,}" in row and f"{card.predicted_error:.2e}" in row


def test_a_chart_has_errors_where_they_are_known(measured: Example) -> None:
    known = size_curve(measured.path, measured.statistics, QuantizeOptions(mode="v2", selection="measured"))
    assert isinstance(known, ErrorCurve) and known.card_bytes and list(known.sizes) == sorted(known.sizes)
    assert known.errors[0] == pytest.approx(sum(measured.statistics.impacts("v2 nearest").values()))
    assert list(known.errors) == sorted(known.errors, reverse=True) and known.errors[-1] == 0
    assert (
        known.planned_error == plan(measured.path, measured.statistics, mode="v2", selection="measured").predicted_error
    )
    by_variance = size_curve(measured.path, measured.statistics, QuantizeOptions(mode="v2"))
    assert isinstance(by_variance, SizeCurve)
    json.dumps(known.as_dict())


def test_statistics_alone_tell_every_format_that_was_measured(measured: Example) -> None:
    curves = {curve.name: curve for curve in measured_curves(measured.statistics)}
    assert curves.keys() == {"v2, nearest", "int8, nearest", "mixed, nearest"}
    smallest = {name: curve.shares[0] for name, curve in curves.items()}
    assert smallest["mixed, nearest"] < smallest["v2, nearest"] < 0.6
    card, made = card_point(measured.statistics), plan(measured.path, measured.statistics, mode="v2", keep_ratio=0.1)
    assert card is not None and made.predicted_error == pytest.approx(card[1])
    assert preview(measured.statistics, 0.1).layers[0].sensitivity == max(
        measured.statistics.impacts(str(MODEL_CARD)).values()
    )
