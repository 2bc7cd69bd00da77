"""The doctor on files of every tool: each line of what it says, and the page that lists them."""

from pathlib import Path

import pytest

from hswq_core import diagnose
from hswq_core.doctor import Diagnosis
from tests.core.doctor_cases import CASES, NEW, OLD, OURS, Case

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
