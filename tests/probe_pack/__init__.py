"""A tests-only node pack that looks inside a MODEL: weights as stored and as computed, hooks, wrappers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.ops
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file


class ProbeWeights(io.ComfyNode):
    """Writes every parameter as it is held, and every layer's weight as its forward gets it in float32."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeWeights",
            inputs=[io.Model.Input("model"), io.String.Input("name"), io.AnyType.Input("after", optional=True)],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, name: str, after: Any = None) -> io.NodeOutput:
        tensors: dict[str, torch.Tensor] = {}
        for layer, module in model.model.diffusion_model.named_modules():
            if not isinstance(getattr(module, "weight", None), torch.Tensor):
                continue
            computed, bias = comfy.ops.cast_bias_weight(module, dtype=torch.float32, device=torch.device("cpu"))
            # Newer versions hand FP8 weights of their own formats on as they are, to FP8 kernels.
            computed = computed.dequantize() if hasattr(computed, "_qdata") else computed
            tensors[f"{layer}.computed"] = computed.float().clone()
            held = getattr(module.weight, "_qdata", module.weight)
            tensors[f"{layer}.weight"] = held.detach().clone()
            if bias is not None:
                tensors[f"{layer}.bias"] = module.bias.detach().clone()
        path = Path(folder_paths.get_output_directory()) / f"{name}.probe"
        save_file(tensors, path)
        return io.NodeOutput(str(path))


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


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbeWeights, ProbeHooks, ProbeFailingSampler]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
