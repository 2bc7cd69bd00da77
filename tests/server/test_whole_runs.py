"""A run of which a part would be missing, or which has weights that no file holds, is left out with its reason."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hswq_core.calibration import Statistics, load_statistics, save_statistics
from tests.support import workflows as w
from tests.support.probing import PROBE
from tests.support.server import ComfyServer, ExecutionError

LORA = "hooked.safetensors"
HOOKS = {
    "lora": {"hooks": w.node("CreateHookLora", lora_name=LORA, strength_model=1.0, strength_clip=0.0)},
    "model": {"hooks": w.node("CreateHookModelAsLora", ckpt_name=w.TINY, strength_model=0.5, strength_clip=0.0)},
    "in the last steps": {
        "always": w.node("CreateHookLora", lora_name=LORA, strength_model=1.0, strength_clip=0.0),
        "off": w.node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0),
        "on": w.node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=["off", 0]),
        "hooks": w.node("SetHookKeyframes", hooks=["always", 0], hook_kf=["on", 0]),
    },
    "for the text alone": {"hooks": w.node("CreateHookLora", lora_name=LORA, strength_model=0.0, strength_clip=1.0)},
}


@pytest.fixture(scope="module")
def hooking(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui, tmp_path_factory.mktemp("whole"), packs=(PROBE,)) as server:
        layer = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
        shapes = {"lora_up": (128, 2), "lora_down": (2, 128)}
        (server.base / "models/loras").mkdir(exist_ok=True)
        save_file(
            {f"{layer}.{part}.weight": torch.ones(shape) for part, shape in shapes.items()},
            server.base / "models/loras" / LORA,
        )
        server.get("/object_info")
        yield server


def session_of(server: ComfyServer, name: str) -> Statistics:
    return load_statistics(server.output / "hswq" / f"{name}.safetensors")


def equal(a: Statistics, b: Statistics) -> bool:
    return a.layers.keys() == b.layers.keys() and all(
        torch.equal(layer.input_sums, b.layers[name].input_sums) for name, layer in a.layers.items()
    )


@pytest.mark.parametrize("kind", HOOKS)
def test_a_run_under_a_hook_lora_is_left_out(hooking: ComfyServer, kind: str) -> None:
    session = f"hooked {kind}"
    hooking.run(w.calibrated("plain", session=session, seed=1, steps=2))
    plain = session_of(hooking, session)
    flow = w.calibrated("hooked", session=session, seed=2, steps=2) | HOOKS[kind]
    flow["hooked_property"] = w.node(
        "ConditioningSetProperties", cond_NEW=["hooked_positive", 0], strength=1.0, set_cond_area="default",
        hooks=["hooks", 0],
    )  # fmt: skip
    flow["hooked_sampler"]["inputs"]["positive"] = ["hooked_property", 0]
    outputs = hooking.run(flow)
    assert hooking.images(outputs, "hooked_image")[0].exists()
    hooking.run(w.calibrated("after", session=session, seed=3, steps=2))
    found = session_of(hooking, session)
    if kind == "for the text alone":
        assert found.runs == 3 and not found.left_out
        return
    ((reason, count),) = found.left_out.items()
    assert found.runs == 2 and count == 1 and "Put Load LoRA before HSWQ Calibrate" in reason and not found.patches
    told = [event["left_out"] for kind, event in hooking.events if kind == "hswq.progress" and event.get("left_out")]
    assert told[-1] == reason
    if kind == "lora":  # the run between them changed nothing
        other = "unhooked"
        hooking.run(w.calibrated("plain", session=other, seed=1, steps=2, cfg=3.0))
        assert equal(session_of(hooking, other), plain)
        hooking.run(w.calibrated("after", session=other, seed=3, steps=2))
        assert equal(session_of(hooking, other), found)


def hooked_text_encoder() -> w.Workflow:
    return HOOKS["lora"] | {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "clip": w.node(
            "SetClipHooks", clip=["loader", 1], apply_to_conds=True, schedule_clip=False, hooks=["hooks", 0]
        ),
    }


def test_the_recipe_refuses_a_text_encoder_with_a_hook_lora(hooking: ComfyServer) -> None:
    flow = hooked_text_encoder()
    flow["run"] = w.node(
        "HSWQCalibrateRun", model=["loader", 0], clip=["clip", 0], prompts="apple", negative="", samples=1, steps=1,
        cfg=1.0, sampler_name="euler", scheduler="normal", width=256, height=256, seed=1, session="refused",
        rows_per_layer=0,
    )  # fmt: skip
    flow["report"] = w.node("HSWQReport", stats=["run", 0], keep_ratio=0.25)
    flow["text"] = w.node("PreviewAny", source=["report", 1])
    with pytest.raises(ExecutionError, match="Put Load LoRA before HSWQ Calibrate"):
        hooking.run(flow)


def test_a_proof_under_a_hook_lora_calls_no_model_again_without_it(hooking: ComfyServer) -> None:
    flow = hooked_text_encoder()
    flow["prove"] = w.node(
        "HSWQProve", reference=["loader", 0], candidate=["loader", 0], clip=["clip", 0], vae=["loader", 2],
        prompts="apple", negative="", seeds=1, seed=1, steps=2, cfg=2.0, sampler_name="euler", scheduler="normal",
        width=256, height=256,
    )  # fmt: skip
    page = Path(hooking.run(flow)["prove"]["text"][1])
    (pair,) = json.loads(page.with_name("proof.json").read_text(encoding="utf-8"))["pairs"]
    assert pair["forced_error"] == [] and pair["ssim"] == 1.0


def test_a_run_that_several_devices_share_is_measured_whole(hooking: ComfyServer) -> None:
    hooking.run(w.calibrated("alone", session="alone", steps=2))
    flow = w.calibrated("shared", session="shared", steps=2)
    flow["copies"] = w.node("ProbeCopies", model=["loader", 0])
    flow["calibrate"]["inputs"]["model"] = ["copies", 0]
    hooking.run(flow)
    assert equal(session_of(hooking, "shared"), session_of(hooking, "alone"))
    # Also where copies are made behind the node that calibrates.
    flow = w.calibrated("behind", session="behind", steps=2)
    flow["copies"] = w.node("ProbeCopies", model=["calibrate", 0])
    flow["behind_sampler"]["inputs"]["model"] = ["copies", 0]
    hooking.run(flow)
    assert equal(session_of(hooking, "behind"), session_of(hooking, "alone"))


def bypassed(name: str, session: str, every: int = 1, **options: int) -> w.Workflow:
    """A run of a model that computes its ``ff.net.2`` past their modules, in every so many calls."""
    flow = w.calibrated(name, session=session, steps=2, **options)  # type: ignore[arg-type]
    flow["bypassed"] = w.node("ProbeBypassed", model=["loader", 0], every=every)
    flow["calibrate"]["inputs"]["model"] = ["bypassed", 0]
    return flow


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_in_which_layers_are_computed_past_their_modules_is_left_out(hooking: ComfyServer, every: int) -> None:
    session = f"bypassed-{every}"
    hooking.run(w.calibrated("whole", session=session, steps=2))
    hooking.run(bypassed("bypassed", session, every, seed=5))
    hooking.run(w.calibrated("smaller", session=session, steps=3, batch=2, cfg=1.0))
    found = session_of(hooking, session)
    ((reason, count),) = found.left_out.items()
    assert (found.runs, count) == (2, 1) and ".ff.net.2 was computed without its module" in reason
    assert not found.never_ran


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_layers_that_never_ran_are_told_and_not_measured_as_harmless(hooking: ComfyServer, method: str) -> None:
    hooking.run(bypassed("idle", "idle"))
    (warning,) = [e for e in hooking.get("/hswq/session?session=idle")["warnings"] if "of the weights never ran" in e]
    assert ".ff.net.2" in warning
    flow = bypassed("idle", "idle") | {"report": w.node("HSWQReport", stats=["calibrate", 1], keep_ratio=0.25)}
    flow |= w.quantize(["calibrate", 1], ["idle_sampler", 0], filename=f"idle-{method}")
    flow["text"] = w.node("PreviewAny", source=["report", 1])
    outputs = hooking.run(flow)
    assert warning in outputs["text"]["text"][0] and warning in outputs["quantize"]["text"][0]
    # Calibrated whole and measured on a model that computes them past their modules.
    hooking.run(w.calibrated("ran", session="ran", steps=2))
    flow = bypassed("ran", "ran") | {
        "measure": w.node(
            "HSWQMeasureSensitivity", model=["bypassed", 0], stats=["load", 0], mode="v2", probes=1, method=method,
            rounding="nearest",
        ),
        "load": w.node("HSWQLoadStatistics", file="ran.safetensors"),
        "text": w.node("PreviewAny", source=["measure", 0]),
    }  # fmt: skip
    with pytest.raises(ExecutionError, match=r"\.ff\.net\.2: this layer ran during calibration, but its module"):
        hooking.run({key: flow[key] for key in ("loader", "bypassed", "measure", "load", "text")})


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_inputs_that_the_model_cannot_be_called_with_are_one_clear_error(hooking: ComfyServer, method: str) -> None:
    hooking.run(w.calibrated("ran", session="ran", steps=2))
    ran = session_of(hooking, "ran")
    cut = tuple({**entry, "context": entry["context"][..., :3]} for entry in ran.inputs)
    save_statistics(replace(ran, inputs=cut), hooking.output / "hswq" / f"cut-{method}.safetensors")
    flow = {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "load": w.node("HSWQLoadStatistics", file=f"cut-{method}.safetensors"),
        "measure": w.node(
            "HSWQMeasureSensitivity", model=["loader", 0], stats=["load", 0], mode="v2", probes=1, method=method,
            rounding="nearest",
        ),
        "text": w.node("PreviewAny", source=["measure", 0]),
    }  # fmt: skip
    with pytest.raises(
        ExecutionError, match=r"could not be called on the inputs that were kept .*Choose the selection"
    ):
        hooking.run(flow)
