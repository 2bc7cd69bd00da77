"""What is done to a MODEL beside loading and sampling: hooks, and copies."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io
from safetensors.torch import save_file


def unet_inputs(unet: torch.nn.Module, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """One fixed input for a UNet of SDXL's kind, of whatever width."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(unet.named_parameters())
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    context = next(t.shape[1] for k, t in tensors.items() if k.endswith("attn2.to_k.weight"))
    inputs = {"x": torch.randn(2, channels, 32, 32, generator=generator), "timesteps": torch.tensor([700.0, 100.0])}
    inputs["context"] = torch.randn(2, 77, context, generator=generator)
    if "label_emb.0.0.weight" in tensors:
        inputs["y"] = torch.randn(2, tensors["label_emb.0.0.weight"].shape[1], generator=generator)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


class ProbeHooked(io.ComfyNode):
    """Writes a UNet's output as it is, under hooks, and without them again, on a card with room for ``room`` of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeHooked",
            inputs=[io.Model.Input("model"), io.Hooks.Input("hooks"), io.String.Input("name"), io.Float.Input("room")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, hooks: Any, name: str, room: float) -> io.NodeOutput:
        cpu, unet, clone = torch.device("cpu"), model.model.diffusion_model, model.clone()
        comfy.model_management.unload_all_models()
        clone.patch_model(device_to=cpu, lowvram_model_memory=max(1, int(room * clone.model_size())))
        tensors, walks, modules = {}, 0, clone.model.modules

        def counted() -> Any:
            nonlocal walks
            walks += 1
            return modules()

        clone.model.modules = counted
        for state, group in (("plain", None), ("hooked", hooks), ("again", None), ("cached", hooks), ("after", None)):
            if group is not None:
                clone.register_all_hook_patches(
                    hooks, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
                )
            clone.apply_hooks(group)
            tensors[state] = unet(**unet_inputs(unet)).float().contiguous()
        del clone.model.modules
        tensors["walks"] = torch.tensor(walks)  # over all modules, which takes a while for a large model
        clone.unpatch_model(cpu)
        save_file(tensors, Path(folder_paths.get_output_directory()) / f"{name}.probe")
        return io.NodeOutput()


class ProbeCopied(io.ComfyNode):
    """A MODEL whose UNet is a copy of another's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeCopied", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        clone.add_object_patch("diffusion_model", copy.deepcopy(model.model.diffusion_model))
        return io.NodeOutput(clone)
