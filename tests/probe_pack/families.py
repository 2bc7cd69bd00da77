"""Random models of other families, small enough for a test, and a plain measurement to hold the calibration against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import folder_paths
import torch
from comfy.ldm.flux.model import FluxParams
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from safetensors.torch import save_file

_CPU = torch.device("cpu")
_SD15 = {
    "use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
    "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "context_dim": 48, "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
    "use_temporal_resblock": False, "num_heads": 4, "num_head_channels": -1,
}  # fmt: skip
_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32,
    "context_in_dim": 48, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip


def _newer_flux() -> dict[str, Any]:
    """What newer versions ask of a Flux besides."""
    return {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}


class ProbeFamily(io.ComfyNode):
    """A random model of SD 1.5's or Flux's architecture, with conditioning and a latent that fit it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeFamily",
            inputs=[io.Combo.Input("family", options=["sd15", "flux"])],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(0)
        kind, settings = {
            "sd15": (comfy.supported_models.SD15, _SD15),
            "flux": (comfy.supported_models.Flux, _FLUX | _newer_flux()),
        }[family]
        config = kind(dict(settings))
        config.custom_operations = comfy.ops.manual_cast
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        for parameter in model.diffusion_model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5 / fan_in**0.5
        patcher = comfy.model_patcher.ModelPatcher(model, _CPU, _CPU)
        text = torch.randn(1, 16, 48, generator=generator)
        conditioning = [[text, {"pooled_output": torch.randn(1, 32, generator=generator), "guidance": 3.5}]]
        channels = 4 if family == "sd15" else 16
        return io.NodeOutput(patcher, conditioning, {"samples": torch.zeros(1, channels, 16, 16)})


class ProbeReference(io.ComfyNode):
    """A MODEL whose sampling is measured the plain way, in float64, written to NAME.reference when the run ends."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeReference",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        sums: dict[str, torch.Tensor] = {}

        def hook(layer: str, conv: bool) -> Callable[..., None]:
            def measure(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
                x = args[0].double()
                x = x.movedim(-3, -1) if conv else x
                x, y = x.reshape(-1, x.shape[-1]), output.double()
                found = torch.stack([x.abs().sum(0), x.sum(0), x.square().sum(0)])
                parts = {
                    "input": found,
                    "rows": torch.tensor([float(len(x))], dtype=torch.float64),
                    "output": torch.stack([torch.tensor(float(y.numel())).double(), y.sum(), y.square().sum()]),
                }
                for part, value in parts.items():
                    sums[f"{layer}.{part}"] = sums.get(f"{layer}.{part}", 0) + value

            return measure

        def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
            unet = executor.class_obj.model_patcher.model.diffusion_model
            handles = [
                module.register_forward_hook(hook(layer, module.weight.dim() == 4))
                for layer, module in unet.named_modules()
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
            ]
            try:
                return executor(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()
                save_file(sums, Path(folder_paths.get_output_directory()) / f"{name}.reference")

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "probe_reference", sample)
        return io.NodeOutput(clone)


class ProbeLowVram(io.ComfyNode):
    """A MODEL that samples as on a card that has room for none of it: LoRAs are added as each layer runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeLowVram", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
            patcher = executor.class_obj.model_patcher
            patcher.unpatch_model(_CPU)
            patcher.patch_model(device_to=_CPU, lowvram_model_memory=1)
            return executor(*args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "probe_lowvram", sample)
        return io.NodeOutput(clone)
