"""Models of which hooks on the modules see a part: computed past their modules, or by copies on other devices."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from comfy_api.latest import io


class ProbeBypassed(io.ComfyNode):
    """A MODEL whose ``ff.net.2`` layers are computed from their weights, in every ``every``-th call."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeBypassed",
            inputs=[io.Model.Input("model"), io.Int.Input("every", default=1, optional=True)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, every: int = 1) -> io.NodeOutput:
        clone = model.clone()
        for name, module in clone.model.diffusion_model.named_modules():
            if name.endswith(".ff"):
                clone.add_object_patch(f"diffusion_model.{name}.forward", _fused(module, every))
        return io.NodeOutput(clone)


def _fused(feed_forward: Any, every: int) -> Any:
    calls = 0

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        first, _, second = feed_forward.net
        hidden = first(x)
        if calls % every:
            return second(hidden)  # type: ignore[no-any-return]
        return torch.nn.functional.linear(hidden, *comfy.ops.cast_bias_weight(second, hidden))

    return forward


class ProbeCopies(io.ComfyNode):
    """A MODEL with a copy on a second device, as newer versions share a run among cards; elsewhere as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeCopies", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        if hasattr(clone, "deepclone_multigpu"):
            copy = clone.deepclone_multigpu(new_load_device=torch.device("cpu", 0))  # another name of the CPU
            copy.is_multigpu_base_clone = True
            clone.set_additional_models("multigpu", [copy])
            clone.match_multigpu_clones()
        return io.NodeOutput(clone)
