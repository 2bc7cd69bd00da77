"""A tests-only node pack that gives ComfyUI a card with dynamic VRAM, on a machine without one.

The card is ``device.py``, its memory ``pages.py``. ComfyUI is told of them as its ``main.py`` tells it of a real one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy_aimdo.control
import comfy_aimdo.host_buffer
import comfy_aimdo.model_mmap
import comfy_aimdo.model_vbar
import comfy_aimdo.torch
import comfy_aimdo.vram_buffer
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file

from .device import add_card, card_bytes
from .pages import Pages

_TOTAL = 8 << 30
PAGES = Pages()


def install() -> None:
    """Let ComfyUI compute on the card, with dynamic VRAM."""
    card = add_card()
    for module in (
        comfy_aimdo.control, comfy_aimdo.host_buffer, comfy_aimdo.model_mmap, comfy_aimdo.model_vbar,
        comfy_aimdo.vram_buffer,
    ):  # fmt: skip
        module.lib = PAGES
    comfy_aimdo.torch.get_tensor_from_raw_ptr = lambda address, size, _device: card_bytes(address, size)
    management = comfy.model_management
    management.get_torch_device = lambda: card
    management.get_all_torch_devices = lambda exclude_current=False: [] if exclude_current else [card]
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.get_free_memory = _of_card(management.get_free_memory, lambda: _TOTAL - PAGES.used)
    management.get_total_memory = _of_card(management.get_total_memory, lambda: _TOTAL)
    # Parameters that move are replaced, where a real device changes what they hold.
    management.unload_all_models = torch.inference_mode()(management.unload_all_models)
    comfy.cli_args.args.disable_pinned_memory = True
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def _of_card(of_others: Any, of_card: Any) -> Any:
    def size(device: Any = None, both: bool = False, **named: Any) -> Any:
        if device is not None and torch.device(device).type == "cpu":
            return of_others(device, both, **named)
        found = of_card()
        return (found, found) if both or any(named.values()) else found

    return size


class ProbePages(io.ComfyNode):
    """Sets the card's budget, empties its pages, and passes the MODEL on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbePages",
            inputs=[io.Model.Input("model"), io.Float.Input("room"), io.Int.Input("salt")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, room: float, salt: int) -> io.NodeOutput:
        """Args: room: for so much of the model; salt: another number for another time."""
        comfy.model_management.unload_all_models()
        PAGES.budget = int(room * model.model_size())
        PAGES.counts.clear()
        return io.NodeOutput(model)


class ProbeCounts(io.ComfyNode):
    """Tells of a MODEL and the pages, as JSON, after something."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeCounts",
            inputs=[io.Model.Input("model"), io.AnyType.Input("after")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, after: Any) -> io.NodeOutput:
        told = {
            "class": type(model).__name__,
            "size": model.model_size(),
            "held": model.loaded_size(),
            "pinned": PAGES.pinned,
            **PAGES.counts,
        }
        return io.NodeOutput(ui={"text": [json.dumps(told)]})


class ProbeClassic(io.ComfyNode):
    """A MODEL without dynamic VRAM, as ComfyUI makes it where it needs one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeClassic", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(model.clone(disable_dynamic=True))


class ProbeImage(io.ComfyNode):
    """Writes an image as it is, in float32."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeImage",
            inputs=[io.Image.Input("images"), io.String.Input("name")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor, name: str) -> io.NodeOutput:
        path = Path(folder_paths.get_output_directory()) / f"{name}.image"
        save_file({"images": images.float().cpu().contiguous()}, path)
        return io.NodeOutput()


class DynamicExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbePages, ProbeCounts, ProbeClassic, ProbeImage]


async def comfy_entrypoint() -> DynamicExtension:
    return DynamicExtension()


install()
