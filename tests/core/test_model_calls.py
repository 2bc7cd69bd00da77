"""All that a model is called with is recorded, kept in the file, and given to it again."""

from pathlib import Path

import torch

from hswq_core.calibration import DualMonitor, load_statistics, save_statistics
from hswq_core.calibration.model_inputs import InputRecorder, images_of, not_recorded
from hswq_core.sensitivity.exact import ImpactMeter
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
    assert [len(each) for each in first["ref_latents"]] == [2, 2], "one image with the prompt and one without"
    assert first["transformer_options"].keys() == {"cond_or_uncond", "sigmas"}, "no functions and no caches"
    assert not_recorded(first) == {"control": "the control net's output"}
    assert first["num_tokens"] == 3 and first["transformer_options"]["cond_or_uncond"] == [1, 0]
    patch = {"transformer_options": {"patch": lambda x: x}}
    together = batched(statistics.inputs)
    assert len(together) == 1 and images_of(together[0]) == 10
    apart = torch.cat([call(net, entry, patch).view(2, 1, 4) for entry in statistics.inputs], 1).flatten(0, 1)
    assert torch.allclose(call(net, together[0], patch), apart, rtol=1e-4, atol=1e-5)
    meter = ImpactMeter(net, statistics.inputs, torch.device("cpu"), patch)
    assert meter.impact(net.layer, torch.ones(4, 4)) > 0


def test_what_cannot_be_recorded_is_named() -> None:
    recorder = InputRecorder()
    recorder.see((torch.ones(2, 4), torch.ones(2)), {"guide": object(), "deep": [{"a": (1, torch.ones(2))}]})
    assert not_recorded(recorder.inputs()[0]) == {"guide": "object"}
