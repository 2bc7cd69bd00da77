"""The doctor on files of every tool: each line of what it says, and the page that lists them."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from hswq_core import diagnose, quantize
from hswq_core.doctor import Diagnosis, Machine, named_card
from hswq_core.doctor.cards import PUBLISHED
from hswq_core.doctor.kinds import HSWQ_PACKED, INT8, NVFP4, V2
from hswq_core.doctor.step_time import MODELLED, SDXL, step_times
from hswq_core.formats import FORMATS
from showcase import doctor_page
from tests.core.capabilities import needs_gguf
from tests.core.conftest import Example
from tests.core.doctor_cases import CASES, EACH, NEW, OLD, OURS, Case
from tests.core.doctor_files import FP8, TEXT, original, save

ROOT = Path(__file__).resolve().parents[2]

CARDS = ("RTX 3060", "RTX 4070", "RTX 5080")


def done_with_linear(found: Diagnosis) -> dict[str, str]:
    """By loader, what is done with the diffusion model's Linear layers."""
    groups = [each for each in found.groups if each.group.part == "diffusion model" and not each.group.convolutions]
    return {action.loader: action.does for each in groups for action in each.actions}


@pytest.mark.parametrize("name", CASES)
def test_every_line_is_right(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = case.make(tmp_path)
    found = diagnose(path, card="RTX 4070")
    layers = {each.group.kind.name: 0 for each in found.groups if each.group.part == "diffusion model"}
    for each in found.groups:
        if each.group.part == "diffusion model":
            layers[each.group.kind.name] += len(each.group.layers)
            assert each.group.group == case.groups[each.group.kind.name][1]
    assert layers == {kind: count for kind, (count, _) in case.groups.items()}
    kept = {each.part: each.layers for each in found.kept}
    assert kept.get("diffusion model", 0) == 9 - sum(layers.values())
    assert (kept["text encoders"], kept["VAE"], list(found.parts)) == (
        1,
        1,
        ["diffusion model", "text encoders", "VAE"],
    )
    assert found.family == "stable-diffusion"
    opened = {opening.loader: opening.outcome for opening in found.openings}
    assert tuple(opened[loader] for loader in (OLD, NEW, OURS)) == case.opened
    assert tuple(loader for loader in opened if loader not in (OLD, NEW, OURS)) == case.others
    for opening in found.openings:
        assert opening.opens == (not opening.reason) and (opening.opens or opening.remedy)
    assert [finding.name for finding in found.findings] == list(case.findings) and not found.errors
    check_bits(case, found)
    check_done(case, path)


def check_bits(case: Case, found: Diagnosis) -> None:
    """Scales and padding of a small layer weigh more than those of a large one."""
    for each in found.groups[: len(case.groups)]:
        assert case.bits <= each.group.bits <= 1.45 * case.bits or each.group.kind.family == "nunchaku"


def check_done(case: Case, path: Path) -> None:
    for card, name in enumerate(CARDS):
        found = diagnose(path, card=name)
        expected = {loader: done if isinstance(done, str) else done[card] for loader, done in case.done.items()}
        assert done_with_linear(found) == expected, name
        lost = [action.loader for action in found.kept_actions if action.does == "casts kept layers to FP8"]
        assert lost == (list(case.lost) if name != "RTX 3060" else []), name


def test_twenty_kinds_and_more() -> None:
    assert len(CASES) >= 20


def test_a_node_says_what_computes(tmp_path: Path) -> None:
    """A running ComfyUI knows more than the card's name: how it was started."""
    fast = Machine("RTX 4070", "cuda", frozenset({"fp8", "int8"}), fast_fp8=True)
    found = diagnose(CASES["plain FP8, convolutions kept"].make(tmp_path), machine=fast)
    assert done_with_linear(found)[NEW] == "computes in 8 bits" and found.machine is fast


def test_times_of_a_step_are_those_of_the_model_of_cards() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").partition("## Cards that are not there")[2]
    for step, times in MODELLED.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {step} | "))
        shown = [cell.strip(" ()") for cell in row.strip("| ").split("|")][-len(PUBLISHED) :]
        assert [None if cell == "-" else int(cell.replace(",", "")) for cell in shown] == list(times)
    assert step_times(SDXL, {V2}, named_card("RTX 4070")) == {"FP16": 387, "exact": 405, "fast": 321}
    assert step_times(SDXL, {INT8, HSWQ_PACKED["hswq_int4"]}, named_card("RTX 3060")) == {
        "FP16": 833, "exact": 857, "fast": 857,
    }  # fmt: skip
    for family, kind, card in (("flux-1-dev", V2, "RTX 4070"), (SDXL, NVFP4, "RTX 4070"), (SDXL, V2, "RTX 4090")):
        assert not step_times(family, {kind}, named_card(card)), "the model does not reach there"


def test_a_text_encoder_alone(tmp_path: Path) -> None:
    block = "encoder.block.0.layer.0.SelfAttention.q"
    tensors = {
        f"{block}.weight": (torch.randn(64, 64) * 100).to(torch.float8_e4m3fn),
        f"{block}.scale_weight": torch.tensor(1e-3),
        "scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn),
        "shared.weight": torch.randn(10, 64).half(),
    }
    found = diagnose(save(tmp_path, tensors))
    assert list(found.parts) == ["text encoders"] and found.formats == ["FP8 with .scale_weight"]
    assert {opening.loader: opening.outcome for opening in found.openings}[NEW] == "opens"
    assert not found.findings and not found.memory


def test_quantized_text_encoders_are_in_the_verdict(tmp_path: Path) -> None:
    tensors = {key: tensor.to(FP8) if key.startswith(TEXT) else tensor for key, tensor in original().items()}
    found = diagnose(save(tmp_path, tensors))
    assert found.verdict.startswith("stable-diffusion, not quantized, text encoders in FP8 E4M3 without scales; opened")
    (group,) = found.groups
    assert group.group.part == "text encoders" and {action.does for action in group.actions} == {EACH}


@needs_gguf
def test_the_page_has_the_tables_of_these_files(tmp_path: Path) -> None:
    text = doctor_page.PAGE.read_text(encoding="utf-8")
    assert doctor_page.page(text, doctor_page.tables(tmp_path)) == text, "python -m showcase.doctor_page"


def test_a_mixed_file_of_ours_bears_out_its_header(example: Example, tmp_path: Path) -> None:
    statistics = example.statistics
    for form in FORMATS["mixed"].forms:
        impacts = {name: 4.0 ** (place - form.bits) for place, name in enumerate(sorted(statistics.layers))}
        statistics = statistics.with_impacts(impacts, f"{form.name} nearest")
    report = quantize(example.path, tmp_path / "mixed.safetensors", statistics, mode="mixed", budget="45%")
    found = diagnose(report.file, original=example.path)
    layers: Counter[str] = Counter()
    for each in found.groups:
        layers[each.group.kind.name.removeprefix("hswq_")] += len(each.group.layers)
    expected = {form: count for form, count in report.plan.layers_by_form.items() if form != "kept" and count}
    assert len(expected) > 1 and dict(layers) == expected and not found.findings
    assert {opening.loader: opening.outcome for opening in found.openings}[OURS] == "opens"
    assert found.comparison is not None and len(found.comparison.layers) == report.quantized_layers
