"""All that a model is called with is recorded, kept in the file, and given to it again."""

from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, load_statistics, quantizable_layers, save_statistics
from hswq_core.calibration.model_inputs import (
    INPUTS_PER_RUN,
    InputRecorder,
    images_of,
    not_recorded,
    samples_of,
    weights_of,
)
from hswq_core.sensitivity.exact import ImpactMeter
from hswq_core.sensitivity.gradient import GradientMeter
from hswq_core.sensitivity.model_calls import batched, call


class Host(torch.nn.Module):
    """Called as ComfyUI calls its models: with lists, numbers and options, some of which are functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, **given: object) -> torch.Tensor:
        reference = torch.stack(given["ref_latents"]).sum(0)  # type: ignore[arg-type,call-overload]
        options: dict[str, object] = given["transformer_options"]  # type: ignore[assignment]
        parts = options["cond_or_uncond"]
        assert given["num_tokens"] == 3 and len(x) % len(parts) == 0  # type: ignore[arg-type]
        return self.layer(x + reference) * t.view(-1, 1) + options["patch"](x)  # type: ignore[operator]


def test_everything_that_a_model_is_called_with_is_given_to_it_again(tmp_path: Path) -> None:
    net, generator = Host(), torch.Generator().manual_seed(1)
    options = {"cond_or_uncond": [1, 0], "sigmas": torch.ones(6), "patch": lambda x: x, "cache": torch.ones(1 << 19)}
    with torch.no_grad(), DualMonitor(net) as monitor:
        for step in range(5):
            references = [torch.randn(6, 4, generator=generator) for _ in range(2)]
            net(
                torch.randn(6, 4, generator=generator), torch.full((6,), float(step + 1)), ref_latents=references,
                num_tokens=3, transformer_options=options, control={"output": [torch.ones(6)]},
            )  # fmt: skip
    save_statistics(monitor.statistics(), tmp_path / "s.safetensors")
    statistics = load_statistics(tmp_path / "s.safetensors")
    first = statistics.inputs[0]
    assert [len(each) for each in first["ref_latents"]] == [6, 6], "small images are all kept"
    assert first["transformer_options"].keys() == {"cond_or_uncond", "sigmas"}, "no functions and no caches"
    assert not_recorded(first) == {"control": "the control net's output"}
    assert first["num_tokens"] == 3 and first["transformer_options"]["cond_or_uncond"] == [1, 0]
    patch = {"transformer_options": {"patch": lambda x: x}}
    together = batched(statistics.inputs)
    assert len(together) == 1 and images_of(together[0]) == 30
    apart = torch.cat([call(net, entry, patch).view(2, 3, 4) for entry in statistics.inputs], 1).flatten(0, 1)
    assert torch.allclose(call(net, together[0], patch), apart, rtol=1e-4, atol=1e-5)
    meter = ImpactMeter(net, statistics.inputs, torch.device("cpu"), patch)
    assert meter.impact(net.layer, torch.ones(4, 4)) > 0


@pytest.mark.parametrize(("elements", "kept"), [(1 << 16, 2), (1 << 13, 4), (1 << 12, 6)])
def test_of_large_images_one_is_kept_with_the_prompt_and_one_without(elements: int, kept: int) -> None:
    recorder = InputRecorder()
    number = torch.arange(6.0)
    recorder.record((number[:, None].expand(6, elements), number), {"transformer_options": {"cond_or_uncond": [1, 0]}})
    (entry,) = recorder.inputs()
    times = entry["1"]
    assert isinstance(times, torch.Tensor) and len(times) == kept == images_of(entry)
    assert torch.equal(times[: kept // 2] + 3, times[kept // 2 :]), "the same images with the prompt and without"


def test_what_cannot_be_recorded_is_named() -> None:
    recorder = InputRecorder()
    recorder.record((torch.ones(2, 4), torch.ones(2)), {"guide": object(), "deep": [{"a": (1, torch.ones(2))}]})
    assert not_recorded(recorder.inputs()[0]) == {"guide": "object"}


@pytest.mark.parametrize("calls", [3, 20, 25, 61, 100])
def test_what_is_kept_stands_for_the_steps_of_whole_images(calls: int) -> None:
    """Where the last steps have most of the error, as in images, the mean over what is kept is that over all steps."""
    errors = [10 ** (3 * call / calls) for call in range(calls)]
    total = share = 0.0
    for run in range(16):
        recorder = InputRecorder(run)
        for number in range(calls):
            recorder.record((torch.full((2, 4), float(number)), torch.ones(2)), {})
        inputs = recorder.inputs()
        weights = [float(weights_of(entry)[0]) for entry in inputs]
        assert sum(weights) == pytest.approx(1.0) and len(inputs) <= INPUTS_PER_RUN
        total += sum(w * errors[int(entry["0"][0, 0])] for w, entry in zip(weights, inputs, strict=True))
        share += sum(weights)
    assert total / share == pytest.approx(sum(errors) / calls, rel=0.12)


class Video(torch.nn.Module):
    """Frames in the batch, as Stable Video Diffusion has them: each is computed alone, then all of a video together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.space, self.time = torch.nn.Linear(4, 4), torch.nn.Linear(5, 5)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, *, num_video_frames: int, y: torch.Tensor, **_: object
    ) -> torch.Tensor:
        assert len(x) % num_video_frames == 0 and len(y) == len(x)
        frames = (self.space(x) + y).unflatten(0, (-1, num_video_frames))
        return self.time(frames.transpose(1, 2)).transpose(1, 2).flatten(0, 1) * t[:, None]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_is_kept_of_a_video_is_all_of_its_frames(tmp_path: Path, parts: int) -> None:
    net, frames, generator = Video().requires_grad_(False), 5, torch.Generator().manual_seed(1)
    options = {"cond_or_uncond": [1, 0] if parts > 1 else [0]}
    with torch.no_grad(), DualMonitor(net) as monitor:
        for step in range(6):
            batch = parts * frames
            net(
                torch.randn(batch, 4, generator=generator), torch.full((batch,), float(step + 1)),
                num_video_frames=frames, y=torch.randn(batch, 4, generator=generator), transformer_options=options,
            )  # fmt: skip
    save_statistics(monitor.statistics(), tmp_path / "s.safetensors")
    inputs = load_statistics(tmp_path / "s.safetensors").inputs
    assert [images_of(entry) for entry in inputs] == [parts * frames] * 6
    assert samples_of(batched(inputs)[0]) == 6 * parts
    layers, cpu = dict(quantizable_layers(net)), torch.device("cpu")
    changes = {name: torch.randn(layer.weight.shape, generator=generator) * 1e-3 for name, layer in layers.items()}  # type: ignore[operator,union-attr,arg-type]
    exact = ImpactMeter(net, inputs, cpu, {})
    meter = GradientMeter(net, inputs, cpu, {}, vectors=1000)
    found = meter.impacts(layers, {name: lambda _weight, d=change: d for name, change in changes.items()})
    for name, layer in layers.items():
        assert found[name] == pytest.approx(exact.impact(layer, changes[name]), rel=0.15), name
