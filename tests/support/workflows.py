"""Workflows in the form the server takes, put together from the same few pieces."""

from __future__ import annotations

from typing import Any

TINY = "hswq_tiny.safetensors"
Workflow = dict[str, Any]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampling(
    model: list[Any],
    clip: list[Any],
    vae: list[Any],
    name: str,
    *,
    prompt: str = "apple",
    seed: int = 1,
    steps: int = 4,
    batch: int = 1,
    cfg: float = 3.0,
    sampler: str = "euler",
    denoise: float = 1.0,
) -> Workflow:
    """Stock nodes from prompts to a saved image; node ids begin with ``name``."""
    return {
        f"{name}_positive": node("CLIPTextEncode", clip=clip, text=prompt),
        f"{name}_negative": node("CLIPTextEncode", clip=clip, text=""),
        f"{name}_empty": node("EmptyLatentImage", width=256, height=256, batch_size=batch),
        f"{name}_sampler": node(
            "KSampler",
            model=model,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="normal",
            positive=[f"{name}_positive", 0],
            negative=[f"{name}_negative", 0],
            latent_image=[f"{name}_empty", 0],
            denoise=denoise,
        ),
        f"{name}_decode": node("VAEDecode", samples=[f"{name}_sampler", 0], vae=vae),
        f"{name}_image": node("SaveImage", images=[f"{name}_decode", 0], filename_prefix=name),
    }


def sample_anew(flow: Workflow, name: str, run: int) -> None:
    """Let the sampling whose nodes begin with ``name`` run though ComfyUI has made the same image: it does not know it.

    The number stands where it changes nothing, as the last of more steps than there are.
    """
    inputs = flow[f"{name}_sampler"]["inputs"]
    same = ("model", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image")
    flow[f"{name}_sampler"] = node(
        "KSamplerAdvanced", **{key: inputs[key] for key in same}, noise_seed=inputs["seed"], add_noise="enable",
        start_at_step=0, end_at_step=1000 + run, return_with_leftover_noise="disable",
    )  # fmt: skip


def plain(name: str = "plain", checkpoint: str = TINY, **options: Any) -> Workflow:
    """The stock loader and a image."""
    loader = {f"{name}_loader": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    return loader | sampling(*_outputs(f"{name}_loader"), name, **options)


def calibrated(
    name: str = "calibrated",
    session: str = "test",
    rows: int = 0,
    reset: bool = False,
    loader: str = "CheckpointLoaderSimple",
    **options: Any,
) -> Workflow:
    """The same through HSWQCalibrate."""
    _, clip, vae = _outputs("loader")
    nodes = {
        "loader": node(loader, ckpt_name=TINY),
        "calibrate": node("HSWQCalibrate", model=["loader", 0], session=session, rows_per_layer=rows, reset=reset),
    }
    return nodes | sampling(["calibrate", 0], clip, vae, name, **options)


def quantize(stats: list[Any], after: list[Any] | None = None, **options: Any) -> Workflow:
    inputs = {
        "source": TINY, "mode": "v2", "keep_ratio": 0.1, "selection": "variance", "rounding": "nearest", "filename": "",
    }  # fmt: skip
    inputs |= options | {"stats": stats}
    if after is not None:
        inputs["after"] = after
    return {"quantize": node("HSWQQuantize", **inputs)}


def straight_and_turned(session: str, prefix: str = "") -> Workflow:
    """Two comfy-int8 files without kept layers: without rotated inputs, and with them where that pays."""
    flow = calibrated("cal", session=session, steps=3, rows=64, loader="HSWQLoader")
    for name, rotate in ((f"{prefix}straight", False), (f"{prefix}turned", True)):
        flow[name] = quantize(
            ["calibrate", 1], ["cal_sampler", 0], mode="comfy-int8", keep_ratio=0.0, rotate=rotate, filename=name
        )["quantize"]
    return flow


def hswq_loaded(name: str, checkpoint: str, **options: Any) -> Workflow:
    """HSWQLoader and a image."""
    loader = {f"{name}_loader": node("HSWQLoader", ckpt_name=checkpoint)}
    return loader | sampling(*_outputs(f"{name}_loader"), name, **options)


def add_control_net(flow: Workflow, name: str, file: str) -> None:
    """Let a control net act on the sampling whose nodes begin with ``name``."""
    flow[f"{name}_net"] = node("ControlNetLoader", control_net_name=file)
    flow[f"{name}_hint"] = node("EmptyImage", width=256, height=256, batch_size=1, color=0x3080C0)
    flow[f"{name}_control"] = node(
        "ControlNetApplyAdvanced", positive=[f"{name}_positive", 0], negative=[f"{name}_negative", 0],
        control_net=[f"{name}_net", 0], image=[f"{name}_hint", 0], strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    flow[f"{name}_sampler"]["inputs"] |= {"positive": [f"{name}_control", 0], "negative": [f"{name}_control", 1]}


def _outputs(loader: str) -> tuple[list[Any], list[Any], list[Any]]:
    return [loader, 0], [loader, 1], [loader, 2]
