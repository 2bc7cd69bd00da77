"""MODELs whose modules are not those that were loaded: compiled, or with a LoRA's own module in a layer's place."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from comfy_api.torch_helpers import set_torch_compile_wrapper

_BLOCK = "diffusion_model.input_blocks.3.1.transformer_blocks.0"
_LAYER = f"{_BLOCK}.attn1.to_q"


class ProbeCompiled(io.ComfyNode):
    """A MODEL through torch.compile with a backend that needs no compiler of C.

    ``whole`` as the stock node does it; otherwise block by block in the modules' places, as others do.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Boolean.Input("whole", default=True, optional=True)]
        return io.Schema(node_id="ProbeCompiled", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any, whole: bool = True) -> io.NodeOutput:
        clone = model.clone()
        if whole:
            set_torch_compile_wrapper(clone, backend="aot_eager")
        else:
            block = clone.get_model_object(_BLOCK)
            clone.add_object_patch(_BLOCK, torch.compile(block, backend="aot_eager"))
        return io.NodeOutput(clone)


class _WithLoRA(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, (rows, columns) = layer, layer.weight.shape
        self.up = torch.nn.Parameter(torch.ones(rows, 1) * 1e-2, requires_grad=False)
        self.down = torch.nn.Parameter(torch.ones(1, columns) * 1e-2, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ (self.up @ self.down).to(x.dtype).T


class ProbeReplaced(io.ComfyNode):
    """A MODEL with a LoRA on one layer by a module in its place, as loaders of other formats put LoRAs on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeReplaced", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        clone.add_object_patch(_LAYER, _WithLoRA(clone.get_model_object(_LAYER)))
        return io.NodeOutput(clone)
