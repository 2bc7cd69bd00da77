"""One family's whole path: calibrate, measure, quantize in every mode, load with ours and with ComfyUI's own.

    python -m tests.families.whole_path --comfyui DIR [--families NAME ...] [--json FILE]

For every family: whether sampling while calibrating gives the same latent to the bit; how well gradients rank the
layers as measuring one after another does, and how well that does without the image to follow, where there is one; and
by mode, how far the output of the loaded file is from that of the same weights, dequantized to float32 in a file of its
own, relative to its largest element.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import inprocess_comfy
from tests.families.catalogue import FAMILIES
from tests.families.family import Family

STEPS = 4
MODES = ("v1", "v2", "comfy", "int8", "comfy-int8")
IN_STOCK = ("comfy", "comfy-int8")
"""Modes that ComfyUI's own loader holds as they are; its V1 turns kept layers to FP8, too."""


def examine(family: Family, folder: Path) -> dict[str, Any]:
    """Figures of one family. Errors: whatever a user would meet."""
    from hswq.hswq_core.calibration.arguments import map_tensors  # type: ignore[import-not-found]
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.hswq_core.files.checkpoint import CheckpointReader  # type: ignore[import-not-found]
    from hswq.loader import impact  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    from tests.families import building

    original = folder / "original.safetensors"
    building.write(family, original)
    with building.detected(family):
        model, _ = load_diffusion_model(original)
        session = CalibrationSession.open(folder / "session.safetensors", model_fingerprint(model))
        plain = _sample(model, family)
        calibrated = _sample(calibrated_clone(model, session, 64), family)
        statistics = session.statistics
        with mock.patch.object(impact.logger, "warning") as warned:
            impacts = _impacts(model, statistics, "gradient")
        exact = _impacts(model, statistics, "exact")
        inputs = statistics.probes(2)
        found: dict[str, Any] = {
            "layers": len(statistics.layers),
            "bit-identical": torch.equal(plain, calibrated),
            "method": "gradient" if not warned.called else f"exact: {warned.call_args.args[-1]}",
            "rank": _rank_correlation(impacts, exact),
        }
        if family.reference:
            # Zeros instead, as some models cannot be called without.
            without = replace(
                statistics,
                inputs=tuple(
                    {**entry, family.reference: map_tensors(entry[family.reference], torch.zeros_like)}
                    for entry in statistics.inputs
                ),
            )
            found["rank without its reference"] = _rank_correlation(_impacts(model, without, "exact"), exact)
        statistics = statistics.with_impacts(impacts, "v2 nearest")
        for mode in MODES:
            with CheckpointReader(original) as reader:
                target = folder / f"{mode}.safetensors"
                found[mode] = _compare(mode, reader, target, statistics, inputs, load_diffusion_model)
    return found


def _sample(model: Any, family: Family) -> torch.Tensor:
    from hswq.loader.sample import sample  # type: ignore[import-not-found]

    from tests.families import building

    return sample(
        model, building.conditioning(family, 0), building.conditioning(family, 1),
        torch.zeros(family.frames, *family.latent), steps=STEPS, cfg=family.cfg, sampler="euler", scheduler="normal",
        seed=1,
    )  # fmt: skip


def _impacts(model: Any, statistics: Any, method: str) -> dict[str, float]:
    from hswq.hswq_core.options import MODEL_CARD  # type: ignore[import-not-found]
    from hswq.loader.impact import measure_impacts  # type: ignore[import-not-found]

    layers = sorted(statistics.layers)
    probes = 2 if method == "gradient" else 8  # gradients take four times as many
    options = {"purposes": [MODEL_CARD], "probes": probes, "progress": lambda *_: None}
    found = measure_impacts(model, statistics, layers, method=method, **options)
    return {name: impacts[str(MODEL_CARD)] for name, impacts in found}


def _rank_correlation(a: dict[str, float], b: dict[str, float]) -> float:
    """Spearman's."""
    orders = [torch.tensor([impacts[name] for name in sorted(b)]).argsort().argsort().double() for impacts in (a, b)]
    return float(torch.corrcoef(torch.stack(orders))[0, 1])


def _compare(mode: str, reader: Any, target: Path, statistics: Any, inputs: Any, load: Any) -> dict[str, float]:
    import comfy.ops
    import comfy.sd
    from hswq.hswq_core import quantize  # type: ignore[import-not-found]
    from hswq.loader.connected import by_native_names  # type: ignore[import-not-found]

    report = quantize(
        by_native_names(reader, statistics), target, statistics, mode=mode, keep_ratio=0.1, selection="measured"
    )
    plain = target.with_name(f"{mode}-plain.safetensors")
    _dequantized(target, plain)
    expected = _outputs(load(plain)[0], inputs)
    found = {"quantized": report.quantized_layers, "ours": _distance(_outputs(load(target)[0], inputs), expected)}
    found["original"] = _distance(_outputs(load(reader.path)[0], inputs), expected)
    if mode in IN_STOCK and "comfy_quant" in inspect.getsource(comfy.ops):  # older versions do not read it
        stock = comfy.sd.load_diffusion_model(str(target))
        found["stock"] = _distance(_outputs(stock, inputs), expected)
    return found


def _dequantized(path: Path, target: Path) -> None:
    """The file with plain weights, W8 * S in float32, by nothing of ours."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for key in [key for key, tensor in tensors.items() if tensor.dtype in (torch.float8_e4m3fn, torch.int8)]:
        stem = key.removesuffix("weight")
        scale = next((tensors.pop(stem + end) for end in ("scale", "weight_scale") if stem + end in tensors), None)
        weight = tensors[key].float()
        if scale is not None:
            weight *= scale.reshape(-1, *[1] * (weight.dim() - 1)) if scale.numel() > 1 else scale
        tensors[key] = weight
    save_file({k: v for k, v in tensors.items() if not k.endswith(".comfy_quant")}, target)


def _outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    import comfy.model_management
    from hswq.hswq_core.sensitivity.model_calls import call  # type: ignore[import-not-found]

    comfy.model_management.load_models_gpu([model])
    return [call(model.model.diffusion_model, entry, {"transformer_options": {}}).float() for entry in inputs]


def _distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--json", type=Path)
    arguments: argparse.Namespace = parser.parse_args()
    inprocess_comfy.start(arguments.comfyui)
    logging.getLogger().setLevel(logging.WARNING)
    from tests.families import building

    results: dict[str, Any] = {}
    for name in arguments.families:
        if not building.known(FAMILIES[name]):
            results[name] = {"unknown": True}
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                results[name] = examine(FAMILIES[name], Path(folder))
            except Exception as error:
                traceback.print_exc()
                results[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, json.dumps(results[name]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1), "utf-8")


if __name__ == "__main__":
    main()
