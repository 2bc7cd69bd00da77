"""Patches of the weights that conditionings bring with them: hook LoRAs, and models as LoRAs.

ComfyUI puts them on for the calls of their conditioning alone, scheduled ones for a part of the steps. They are none of
a MODEL's patches, so nothing that is quantized afterwards would have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy.hooks import EnumHookType


def weight_hooks(conditioning: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The hooks of a conditioning that change weights of the diffusion model, at whichever step.

    Args:
        conditioning: the tables of its parts, in which ``hooks`` is a group of them.
    """
    groups = [part["hooks"] for part in conditioning if part.get("hooks") is not None]
    return [hook for group in groups for hook in group.get_type(EnumHookType.Weight) if _acts(hook)]


def _acts(hook: Any) -> bool:
    """A strength of 0 is for the text encoder alone; a schedule is at 0 for some steps only."""
    scheduled = [keyframe.strength for keyframe in hook.hook_keyframe.keyframes]
    return any(scheduled) if scheduled else bool(hook.strength_model)


def change_weights(patcher: Any, conditionings: Mapping[str, Iterable[Mapping[str, Any]]]) -> bool:
    """Whether a run with these conditionings has patches on the diffusion model that are not the MODEL's own.

    Args:
        patcher: the MODEL that is sampled, with which ComfyUI has registered the hooks.
        conditionings: those of the run, by name.
    """
    hooks = [hook for parts in conditionings.values() for hook in weight_hooks(parts)]
    keys = [key for hook in hooks for key in patcher.hook_patches.get(hook.hook_ref, ())]
    return any(key.startswith("diffusion_model.") for key in keys)
