"""What HSWQ Calibrate measures, held against a plain measurement of the same run, whatever is done to the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core.calibration import Statistics, load_statistics
from tests.support import workflows as w
from tests.support.server import ComfyServer, ExecutionError


def chain(model: list[Any], name: str, rows: int = 16) -> w.Workflow:
    """The plain measurement and ours, one behind the other."""
    return {
        "reference": w.node("ProbeReference", model=model, name=name),
        "calibrate": w.node(
            "HSWQCalibrate", model=["reference", 0], session=f"exact-{name}", rows_per_layer=rows, reset=True
        ),
    }


def assert_exact(server: ComfyServer, name: str) -> Statistics:
    """Every layer that ran is in the session, with the plain measurement's means to seven digits or so."""
    expected = load_file(server.output / f"{name}.reference")
    found = load_statistics(server.output / "hswq" / f"exact-{name}.safetensors")
    assert found.layers.keys() == {key.removesuffix(".input") for key in expected if key.endswith(".input")}
    for layer, measured in found.layers.items():
        rows = expected[f"{layer}.rows"]
        assert measured.input_rows == int(rows), layer
        means = expected[f"{layer}.input"] / rows
        ours = torch.stack([measured.importance, measured.mean, measured.second_moment])
        size = torch.stack([means[0], means[0], means[2]])  # a mean of x near zero is measured by the mean of |x|
        assert bool(((ours - means).abs() <= 1e-5 * size + 1e-12).all()), layer
        count, total, squares = expected[f"{layer}.output"].tolist()
        assert measured.output_sums[0] == count
        variance = squares / count - (total / count) ** 2
        assert measured.sensitivity == pytest.approx(variance, rel=1e-4, abs=1e-9 * squares / count), layer
        assert measured.rows is not None and 0 < len(measured.rows) <= 16
    return found


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_other_families(probing: ComfyServer, family: str) -> None:
    flow = {"family": w.node("ProbeFamily", family=family)} | chain(["family", 0], family)
    flow["sampler"] = w.node(
        "KSampler", model=["calibrate", 0], seed=1, steps=3, cfg=1.0 if family == "flux" else 4.0, sampler_name="euler",
        scheduler="simple", positive=["family", 1], negative=["family", 1], latent_image=["family", 2], denoise=1.0,
    )  # fmt: skip
    flow["save"] = w.node("SaveLatent", samples=["sampler", 0], filename_prefix=family)
    probing.run(flow)
    found = assert_exact(probing, family)
    assert found.inputs and found.steps == 3
    if family == "sd15":
        assert any(layer.shape[2:] == (1, 1) for layer in found.layers.values())  # proj_in is a convolution there


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "heun", "uni_pc"])
@pytest.mark.parametrize("options", [{}, {"denoise": 0.4, "cfg": 1.0}, {"batch": 3}], ids=["plain", "partial", "batch"])
def test_samplers_guidance_and_partial_denoise(probing: ComfyServer, sampler: str, options: dict[str, Any]) -> None:
    name = f"{sampler}-{'-'.join(options)}"
    flow = w.hswq_loaded("x", w.TINY) | chain(["x_loader", 0], name)
    flow |= w.sampling(["calibrate", 0], ["x_loader", 1], ["x_loader", 2], "x", sampler=sampler, **options)
    probing.run(flow)
    found = assert_exact(probing, name)
    assert found.samples == options.get("batch", 1) and sum(found.noise_levels) == found.steps


@pytest.mark.parametrize("lowvram", [False, True])
def test_a_model_with_a_lora_and_a_control_net(probing: ComfyServer, lowvram: bool) -> None:
    name = f"patched-{lowvram}"
    generator = torch.Generator().manual_seed(0)
    layer = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    shapes = {"lora_up": (128, 2), "lora_down": (2, 128)}
    lora = {f"{layer}.{part}.weight": torch.randn(shape, generator=generator) for part, shape in shapes.items()}
    for folder in ("loras", "controlnet"):
        (probing.base / "models" / folder).mkdir(exist_ok=True)
    save_file(lora, probing.base / "models/loras/calibrating.safetensors")
    flow = w.hswq_loaded("x", w.TINY)
    flow["nets"] = w.node("ProbeControlNets", model=["x_loader", 0], folder=str(probing.base / "models/controlnet"))
    probing.run({key: flow[key] for key in ("x_loader", "nets")})
    probing.get("/object_info")

    flow = w.hswq_loaded("x", w.TINY)
    flow["lora"] = w.node(
        "LoraLoaderModelOnly", model=["x_loader", 0], lora_name="calibrating.safetensors", strength_model=1.0
    )
    flow["low"] = w.node("ProbeLowVram", model=["lora", 0])
    flow |= chain(["low" if lowvram else "lora", 0], name)
    w.add_control_net(flow, "x", "full.safetensors")
    flow["x_sampler"]["inputs"]["model"] = ["calibrate", 0]
    probing.run(flow)
    patched = assert_exact(probing, name)

    # The LoRA is in what was measured: the layer puts out something else than without it.
    plain = w.hswq_loaded("x", w.TINY) | chain(["x_loader", 0], f"plain-{lowvram}")
    plain["x_sampler"]["inputs"]["model"] = ["calibrate", 0]
    probing.run(plain)
    touched = "middle_block.1.transformer_blocks.0.attn1.to_q"
    unpatched = assert_exact(probing, f"plain-{lowvram}").layers[touched].sensitivity
    assert patched.layers[touched].sensitivity > 2 * unpatched


def test_sampling_survives_a_folder_that_can_no_longer_be_written(probing: ComfyServer) -> None:
    def calibrating(name: str, seed: int) -> w.Workflow:
        return w.calibrated(name, session="unwritable", loader="HSWQLoader", seed=seed)

    probing.run(calibrating("first", 10))
    folder = probing.output / "hswq"
    away = folder.rename(folder.with_name("hswq-away"))
    try:
        folder.write_text("a file where the folder should be", encoding="utf-8")
        outputs = probing.run(calibrating("second", 11))
        assert probing.images(outputs, "second_image")[0].exists()
        assert "It is kept in memory and written with the next run" in probing.log
        told = [event for kind, event in probing.events if kind == "hswq.progress" and event.get("unwritten")]
        assert str(folder) in told[-1]["unwritten"] and not told[-1]["left_out"]
        with pytest.raises(ExecutionError, match="there is a file where this folder is to be"):
            probing.run(w.calibrated("other", session="begun meanwhile", loader="HSWQLoader"))
    finally:
        folder.unlink()
        Path(away).rename(folder)
    # The same node is still there, and so is what it has measured.
    probing.run(calibrating("third", 12))
    assert load_statistics(folder / "unwritable.safetensors").runs == 3
