"""A tests-only node pack that gives ComfyUI a card with dynamic VRAM, on a machine without one.

The card is ``device.py``, its memory ``pages.py``. ComfyUI is told of them as its ``main.py`` tells it of a real one.
"""

from __future__ import annotations

import json
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
import torch
from comfy_api.latest import ComfyExtension, io

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
    """Sets the card's budget, and tells of the MODEL and the pages as JSON."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbePages",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("budget", default=-1, min=-1, max=1 << 60, optional=True),
                io.Int.Input("salt", default=0, optional=True),
                io.AnyType.Input("after", optional=True),
            ],
            outputs=[io.Model.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, budget: int = -1, salt: int = 0, after: Any = None) -> io.NodeOutput:
        if budget >= 0:
            PAGES.budget = budget
        told = {
            "dynamic": model.is_dynamic(),
            "size": model.model_size(),
            "loaded": model.loaded_size(),
            "pinned": PAGES.pinned,
            **PAGES.counts,
        }
        PAGES.counts.clear()
        return io.NodeOutput(model, ui={"text": [json.dumps(told)]})


class DynamicExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbePages]


async def comfy_entrypoint() -> DynamicExtension:
    return DynamicExtension()


install()
