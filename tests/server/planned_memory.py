"""What ComfyUI is asked for by our work, told as JSON: ``python -m tests.server.planned_memory --comfyui DIR``."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import inprocess_comfy
from benchmarks.sdxl_shapes import sdxl_unet
from tests.support.server import TINY_CHECKPOINT


def main() -> None:
    args = inprocess_comfy.parser(__doc__).parse_args()
    inprocess_comfy.start(args.comfyui)
    print(json.dumps({"sdxl": sdxl(), "asked": asked(), "room": room(), "left": left_alone(), "near": near()}))


def sdxl() -> dict[str, Any]:
    """ComfyUI's own figures for SDXL at 1024 x 1024 with guidance, bytes, while it is calibrated."""
    import comfy.model_detection
    import comfy.model_management
    from hswq.hswq_core.calibration.monitor import DEVICE_MEMORY  # type: ignore[import-not-found]
    from hswq.loader.memory import reserved_memory  # type: ignore[import-not-found]

    tensors = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in sdxl_unet().items()}
    config = comfy.model_detection.model_config_from_unet(tensors, "")
    config.set_inference_dtype(torch.float16, None)
    model = config.get_model(tensors, "", device=torch.device("meta"))
    comfy.model_management.pytorch_attention_flash_attention = lambda: True  # as on a card
    plain = model.memory_required([2, 4, 128, 128])
    arguments = list(inspect.signature(model.memory_required).parameters)
    with reserved_memory(model, DEVICE_MEMORY):
        kept = list(inspect.signature(model.memory_required).parameters) == arguments
        calibrated = model.memory_required([2, 4, 128, 128])
    weights = comfy.model_management.module_size(model)
    return {"weights": weights, "plain": int(plain), "calibrated": int(calibrated), "kept_its_arguments": kept}


def asked() -> dict[str, Any]:
    """What the memory manager is asked for in a plain run, a calibrated one, and by both ways of measuring."""
    import comfy.model_management
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.hswq_core.options import MODEL_CARD  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]
    from hswq.loader.impact import measure_impacts  # type: ignore[import-not-found]

    loaded = inprocess_comfy.LoadedModel(TINY_CHECKPOINT)
    events: list[int | str] = []
    load: Any = comfy.model_management.load_models_gpu

    def load_models_gpu(models: Any, memory_required: int = 0, *rest: Any, **named: Any) -> Any:
        if any(getattr(model, "model", None) is loaded.model.model for model in models):
            events.append(int(memory_required))
        return load(models, memory_required, *rest, **named)

    comfy.model_management.load_models_gpu = load_models_gpu
    loaded.unet.register_forward_pre_hook(lambda *_: events.append("call"))
    with tempfile.TemporaryDirectory() as folder:
        session = CalibrationSession.open(Path(folder) / "session.safetensors", model_fingerprint(loaded.model))
        found: dict[str, Any] = {}
        for name, model in (("plain", None), ("calibrated", calibrated_clone(loaded.model, session, 16))):
            events.clear()
            loaded.latents(["a"], 0, model, steps=2)
            found[name] = list(events)
        statistics = session.statistics
        layer = next(iter(statistics.layers))
        for method in ("exact", "gradient"):
            events.clear()
            how = {"purposes": [MODEL_CARD], "probes": 1, "method": method}
            list(measure_impacts(loaded.model, statistics, [layer], progress=lambda *_: None, **how))
            found[method] = list(events)
    comfy.model_management.load_models_gpu = load
    return found


def room() -> list[Any]:
    """What is asked for before quantizing on a card, and on a CPU."""
    import comfy.model_management
    from hswq.loader.memory import make_room  # type: ignore[import-not-found]

    calls: list[Any] = []
    comfy.model_management.free_memory = lambda needed, device: calls.append([needed, str(device)])
    make_room(torch.device("cuda", 0), 1000)
    make_room(torch.device("cpu"), 1000)
    return calls


def near() -> list[Any]:
    """Bytes that a LoRA takes beside its weight on a card, where its tensors are then and afterwards, and a merge's."""
    from comfy.weight_adapter import LoRAAdapter
    from hswq.loader.patching import AddedPatches  # type: ignore[import-not-found]

    lora = LoRAAdapter(set(), (torch.ones(8, 2), torch.ones(2, 8), 2.0, None, None, None))
    merge = ("diff", (torch.ones(8, 8),))
    found: list[Any] = []
    for patch, held in ((lora, lambda patch: patch.weights[0]), (merge, lambda patch: patch[1][0])):
        added = AddedPatches("key", [(1.0, patch, 1.0, None, None)], most=128)
        for device in ("meta", "cpu"):
            taken = added.move_to(torch.device(device))
            found.append([taken, held(added._near[0][1]).device.type])
    return found


def left_alone() -> list[int]:
    """Estimates within a reservation, within one in it, after that, and after an error that ends the outer one."""
    from hswq.loader.memory import reserved_memory  # type: ignore[import-not-found]

    class Model:
        def memory_required(self, shape: list[int], cond_shapes: object = None) -> int:
            return shape[0] * 100

    model, found = Model(), []
    try:
        with reserved_memory(model, 7):
            found.append(model.memory_required([2], cond_shapes={}))
            with reserved_memory(model, 1):
                found.append(model.memory_required([2]))
            found.append(model.memory_required([2]))
            raise KeyError
    except KeyError:
        found.append(model.memory_required([2]))
    return [*found, len(vars(model))]


if __name__ == "__main__":
    main()
