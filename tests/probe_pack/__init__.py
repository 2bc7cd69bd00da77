"""A tests-only node pack that looks inside a MODEL: weights as stored and as computed, hooks, wrappers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.model_management
import comfy.ops
import folder_paths
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.patcher_extension import PatcherInjection
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file

from .families import ProbeFamily, ProbeLowVram, ProbeReference
from .files import ProbeFileChanged
from .partial_runs import ProbeBypassed, ProbeCopies
from .patched import ProbeCopied, ProbeHooked, unet_inputs
from .replaced import ProbeCompiled, ProbeReplaced
from .trace import ProbeTrace


def _patches_in_calls(unet: torch.nn.Module) -> dict[str, Any]:
    """What our loader adds to layers' weights in each call, by layer."""
    found = {name: getattr(module, "weight_function", ()) for name, module in unet.named_modules()}
    return {name: f for name, functions in found.items() for f in functions if type(f).__name__ == "AddedPatches"}


class ProbeWeights(io.ComfyNode):
    """Writes every parameter as it is held, every layer's weight as its forward gets it, and the UNet's output.

    With ``lowvram`` the model is loaded as on a card that has room for ``room`` times its size, by default none: then
    LoRAs are added layer by layer. Of that ``unload`` times its size is taken away again.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeWeights",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Boolean.Input("lowvram", default=False, optional=True),
                io.Float.Input("room", default=0.0, optional=True),
                io.Float.Input("unload", default=0.0, optional=True),
                io.AnyType.Input("after", optional=True),
            ],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model: Any, name: str, lowvram: bool = False, room: float = 0.0, unload: float = 0.0, after: Any = None
    ) -> io.NodeOutput:
        cpu, unet, told = torch.device("cpu"), model.model.diffusion_model, dict[str, torch.Tensor]()
        if lowvram:
            comfy.model_management.unload_all_models()
            model.patch_model(device_to=cpu, lowvram_model_memory=max(1, int(room * model.model_size())))
            if unload:
                before = _patches_in_calls(unet)
                model.partially_unload(cpu, int(unload * model.model_size()))
                kept = sum(patch is before.get(layer) for layer, patch in _patches_in_calls(unet).items())
                told["unet.patches"] = torch.tensor([len(before), kept])
        else:
            comfy.model_management.load_models_gpu(
                [model], force_patch_weights=not getattr(model, "is_dynamic", bool)()
            )
        tensors = told
        for layer, module in unet.named_modules():
            if not isinstance(getattr(module, "weight", None), torch.Tensor):
                continue
            where = {"dtype": torch.float32, "device": model.load_device}
            computed, bias, stream = comfy.ops.cast_bias_weight(module, **where, offloadable=True)
            # Newer versions hand FP8 weights of their own formats on as they are, to FP8 kernels.
            whole = computed.dequantize() if hasattr(computed, "_qdata") else computed
            tensors[f"{layer}.computed"] = whole.float().cpu().clone()
            comfy.ops.uncast_bias_weight(module, computed, bias, stream)
            tensors[f"{layer}.weight"] = getattr(module.weight, "_qdata", module.weight).detach().cpu().clone()
            if bias is not None:
                tensors[f"{layer}.bias"] = module.bias.detach().cpu().clone()
        tensors["unet.output"] = unet(**unet_inputs(unet, model.load_device)).float().cpu().contiguous()
        # What the weights and scales take in memory, in all.
        parts = {id(t): t for p in unet.parameters() for t in _parts(p)}
        tensors["unet.bytes"] = torch.tensor(sum(t.nbytes for t in parts.values()))
        if lowvram:
            model.unpatch_model(cpu)
        path = Path(folder_paths.get_output_directory()) / f"{name}.probe"
        save_file(tensors, path)
        return io.NodeOutput(str(path))


def _parts(parameter: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a parameter is made of."""
    if not hasattr(parameter, "_qdata"):
        return [parameter]
    params = getattr(parameter, "_params", None) or parameter._layout_params  # type: ignore[attr-defined]
    values = params.values() if isinstance(params, dict) else vars(params).values()
    return [parameter._qdata, *(v for v in values if isinstance(v, torch.Tensor))]  # type: ignore[attr-defined]


class ProbeHooks(io.ComfyNode):
    """Counts the forward hooks on a MODEL's modules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeHooks",
            inputs=[io.Model.Input("model"), io.Int.Input("salt"), io.AnyType.Input("after", optional=True)],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, salt: int, after: Any = None) -> io.NodeOutput:
        count = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.model.modules())
        return io.NodeOutput(ui={"text": [json.dumps(count)]})


class ProbeFailingSampler(io.ComfyNode):
    """A MODEL whose sampling fails in its third step, as a crash in a layer would."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeFailingSampler", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        calls = 0

        def fail(apply: Any, arguments: dict[str, Any]) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise RuntimeError("the probe fails on purpose")
            return apply(arguments["input"], arguments["timestep"], **arguments["c"])

        clone = model.clone()
        clone.set_model_unet_function_wrapper(fail)
        return io.NodeOutput(clone)


class ProbeControlNets(io.ComfyNode):
    """Writes two control nets that fit a MODEL: full.safetensors, and lora.safetensors, a control LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeControlNets",
            inputs=[io.Model.Input("model"), io.String.Input("folder")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, folder: str) -> io.NodeOutput:
        config = {k: v for k, v in model.model.model_config.unet_config.items() if k != "out_channels"}
        config |= {"hint_channels": 3, "operations": comfy.ops.disable_weight_init, "dtype": torch.float32}
        net = comfy.cldm.cldm.ControlNet(**config)
        unet = model.model.diffusion_model.state_dict()
        generator = torch.Generator().manual_seed(0)
        full, lora = {}, {"lora_controlnet": torch.zeros(0)}
        for key, tensor in net.state_dict().items():
            if key in unet:
                full[key] = unet[key].float()
                if key.endswith(".weight") and tensor.dim() > 1:
                    rows, columns = tensor.shape[0], tensor[0].numel()
                    layer = key.removesuffix(".weight")
                    lora[f"{layer}.up"] = torch.randn(rows, 1, generator=generator) * 0.05
                    lora[f"{layer}.down"] = torch.randn(1, columns, generator=generator) * 0.05
            else:
                full[key] = lora[key] = torch.randn(tensor.shape, generator=generator) * 0.2
        for name, tensors in (("full", full), ("lora", lora)):
            save_file(tensors, Path(folder) / f"{name}.safetensors")
        return io.NodeOutput()


def _ignore(_result: torch.Tensor) -> None:
    """A forward pre-hook that gives nothing leaves the input as it is."""


class ProbeInjected(io.ComfyNode):
    """A MODEL into which a layer is put for the time of each run, as motion modules are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeInjected", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        unet = clone.model.diffusion_model
        handles: list[Any] = []

        def inject(_patcher: Any) -> None:
            unet.injected = layer = torch.nn.Linear(4, 4)
            handles.append(unet.register_forward_pre_hook(lambda *_: _ignore(layer(torch.ones(1, 4)))))

        def eject(_patcher: Any) -> None:
            while handles:
                handles.pop().remove()
                del unet.injected

        clone.set_injections("probe", [PatcherInjection(inject, eject)])
        return io.NodeOutput(clone)


class ProbeClipVision(io.ComfyNode):
    """A CLIP vision model of two small random layers, whose pictures and texts are vectors of a given width."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeClipVision", inputs=[io.Int.Input("width")], outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls, width: int) -> io.NodeOutput:
        config = {
            "hidden_act": "gelu", "hidden_size": 32, "image_size": 64, "intermediate_size": 64,
            "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2, "patch_size": 16,
            "projection_dim": width, "layer_norm_eps": 1e-5, "model_type": "clip_vision_model",
        }  # fmt: skip
        path = Path(folder_paths.get_temp_directory()) / f"clip_vision_{width}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config))
        found = ClipVisionModel(str(path))
        generator = torch.Generator().manual_seed(0)
        for parameter in found.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2
        return io.NodeOutput(found)


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ProbeWeights, ProbeHooks, ProbeFailingSampler, ProbeControlNets, ProbeCompiled, ProbeFamily, ProbeReference,
            ProbeLowVram, ProbeInjected, ProbeClipVision, ProbeHooked, ProbeCopied, ProbeBypassed, ProbeCopies,
            ProbeTrace, ProbeReplaced, ProbeFileChanged,
        ]  # fmt: skip


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
