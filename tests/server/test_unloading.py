"""A model in 8 bits that gives way to others and comes back, with a LoRA, with a hook LoRA, and with none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import DEFAULT
from tests.support import workflows as w
from tests.support.loras import write_lora
from tests.support.probing import MODES, loaded, probe
from tests.support.server import ComfyServer

LORA = "on_some_layers.safetensors"
WAYS = ("plain", "lora", "hook")
KINDS = ("v2", "int8")
pytestmark = pytest.mark.parametrize("probing", ["default"], ids=[DEFAULT], indirect=True)
_runs = itertools.count(1)


@pytest.fixture
def lora(probing: ComfyServer) -> Iterator[str]:
    write_lora(probing, LORA)
    yield LORA


def flow_of(way: str, loader: w.Workflow, strength: float = 0.7, **options: object) -> w.Workflow:
    """A image with the LoRA put onto the model, bound to its prompts as a hook, or without it.

    It is made anew each time: ComfyUI's cache would answer for a workflow that it has seen.
    """
    flow, model = dict(loader), ["loader", 0]
    flow["text"] = w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)
    if way == "lora":
        flow["lora"] = w.node("LoraLoaderModelOnly", model=model, lora_name=LORA, strength_model=strength)
        model = ["lora", 0]
    flow |= w.sampling(model, ["text", 1], ["text", 2], "made", steps=3, **options)  # type: ignore[arg-type]
    if way.startswith("hook"):
        add_hook(flow, strength, scheduled=way == "hook_scheduled")
    w.sample_anew(flow, "made", next(_runs))
    return flow


def add_hook(flow: w.Workflow, strength: float, *, scheduled: bool) -> None:
    flow["hook"] = w.node("CreateHookLoraModelOnly", lora_name=LORA, strength_model=strength)
    hooks = ["hook", 0]
    if scheduled:
        flow["until"] = w.node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
        flow["after"] = w.node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.4, prev_hook_kf=["until", 0])
        flow["frames"] = w.node("SetHookKeyframes", hooks=hooks, hook_kf=["after", 0])
        hooks = ["frames", 0]
    flow["hooked"] = w.node(
        "PairConditioningSetProperties", positive_NEW=["made_positive", 0], negative_NEW=["made_negative", 0],
        strength=1.0, set_cond_area="default", hooks=hooks,
    )  # fmt: skip
    flow["made_sampler"]["inputs"] |= {"positive": ["hooked", 0], "negative": ["hooked", 1]}


def image(server: ComfyServer, flow: w.Workflow) -> bytes:
    """The pixels: the file has the workflow, too, which is never the same."""
    with Image.open(server.images(server.run(flow), "made_image")[0]) as made:
        return made.tobytes()


def pixels(made: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(made), dtype=torch.uint8).float()


@pytest.mark.parametrize("kind", KINDS)
def test_unloading_changes_nothing(probing: ComfyServer, lora: str, kind: str) -> None:
    cycle_through(probing, kind, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduled_hook_acts_as_on_the_exact_model(probing: ComfyServer, lora: str, kind: str) -> None:
    """For the first steps of a run alone, and with another LoRA on the model."""
    ours, plain = loaded(f"{kind}.safetensors"), image(probing, flow_of("plain", loaded(f"{kind}.safetensors")))
    flows = {"ours": ours, "exact": loaded(f"{kind}_exact.safetensors")}
    for lora_below in (None, -0.4):
        made = {name: flow_of("hook_scheduled", loader) for name, loader in flows.items()}
        for flow in made.values() if lora_below else ():
            flow["below"] = w.node("LoraLoaderModelOnly", model=["loader", 0], lora_name=LORA, strength_model=-0.4)
            flow["made_sampler"]["inputs"]["model"] = ["below", 0]
        one, other = (pixels(image(probing, flow)) for flow in made.values())
        assert float((one - other).abs().max()) <= 2, lora_below  # of 255
        assert float((one - pixels(plain)).abs().max()) > 8
    assert image(probing, flow_of("plain", ours)) == plain


def test_a_hook_on_a_card_with_little_memory(probing: ComfyServer, lora: str) -> None:
    """Codes stay codes, and the LoRA is added to them as it is with all the memory there is."""
    flow = {**loaded("v2.safetensors"), "text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    found = {}
    for name, room in (("whole", 2.0), ("part", 0.5), ("none", 0.0)):
        flow["hook"] = w.node("CreateHookLoraModelOnly", lora_name=LORA, strength_model=0.7)
        flow["probe"] = w.node("ProbeHooked", model=["loader", 0], hooks=["hook", 0], name=name, room=room)
        probing.run(flow)
        found[name] = load_file(probing.output / f"{name}.probe")
    assert found["whole"]["hooked"].abs().max() > 0
    assert int(found["whole"]["walks"]) <= 5, "one for a change of hooks at most, and not one for each layer"
    for name, tensors in found.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, found["whole"][key]), (name, key)
    assert not torch.equal(found["whole"]["plain"], found["whole"]["hooked"])
    for first, again in (("plain", "again"), ("plain", "after"), ("hooked", "cached")):
        assert torch.equal(found["whole"][first], found["whole"][again]), again


@pytest.mark.parametrize("kind", ["int8", "v2"])
def test_a_model_that_is_copied(probing: ComfyServer, lora: str, kind: str) -> None:
    flow = loaded(f"{kind}.safetensors")
    flow["copy"] = w.node("ProbeCopied", model=["loader", 0])
    held, copied = (probe(probing, f"copied_{kind}", flow, model) for model in (["loader", 0], ["copy", 0]))
    assert held.keys() == copied.keys() and all(torch.equal(held[key].float(), copied[key].float()) for key in held)


@pytest.mark.stress
@pytest.mark.parametrize("kind", [mode for mode in MODES if mode not in KINDS])
def test_unloading_the_other_kinds(probing: ComfyServer, lora: str, kind: str) -> None:
    cycle_through(probing, kind, 2)


@pytest.mark.stress
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_times(probing: ComfyServer, lora: str, kind: str) -> None:
    cycle_through(probing, kind, 3)
    before = memory_of(probing)
    cycle_through(probing, kind, 100)
    assert memory_of(probing) - before <= 32 << 20


def cycle_through(server: ComfyServer, kind: str, cycles: int) -> None:
    loader = loaded(f"{kind}.safetensors")
    first = {way: image(server, flow_of(way, loader)) for way in WAYS}
    assert first["lora"] == first["hook"] != first["plain"]
    assert image(server, flow_of("plain", loader)) == first["plain"]
    for _ in range(cycles):
        for way in WAYS:
            server.unload()
            assert image(server, flow_of(way, loader)) == first[way], way


def memory_of(server: ComfyServer) -> int:
    status = Path(f"/proc/{server.process_id}/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10
