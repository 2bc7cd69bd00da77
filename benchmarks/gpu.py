"""One table that decides, on a card at SDXL's true size: calibration's overhead, speed and memory of every mode.

    python -m benchmarks.gpu --comfyui DIR --folder DIR       # 45 GB of disk, about ten minutes on a fast card

Random weights in SDXL's real shapes, 1024 x 1024 pixels with guidance, so two latents a step. Speeds are ratios of
alternating rounds in one process. ``--small`` runs all of it with the bundled tiny model, on a CPU, too: its figures
say nothing, but that it runs.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .gpu_subject import Subject, allocated, peak, sdxl, small, synchronize

FILES = {
    "v2": {"mode": "v2"}, "v2 by channel": {"mode": "v2", "scales": "channel"}, "comfy": {"mode": "comfy"},
    "int8": {"mode": "int8"}, "comfy-int8": {"mode": "comfy-int8"},
}  # fmt: skip
OF_STOCK = ("comfy", "comfy-int8")
COMPILED = ("v2", "int8")
CARDS = (8, 12)


def tell(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def unload() -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()


def weights_on_card(model: Any) -> int:
    """Bytes that the card gained when the diffusion model was put on it."""
    import comfy.model_management

    unload()
    before = allocated()
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    synchronize()
    return allocated() - before


def calibration(subject: Subject, stock: Any) -> Any:
    """Plain and calibrated runs of one model by turns; gives the session with rows."""
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]

    fingerprint = model_fingerprint(stock)
    sessions = {
        rows: CalibrationSession.open(subject.folder / f"rows{rows}.safetensors", fingerprint, reset=True)
        for rows in (0, 1024)
    }
    clones = {f"{rows:,} rows": calibrated_clone(stock, session, rows) for rows, session in sessions.items()}
    for images in (1, 4):
        seconds = subject.alternated({"plain": stock, **clones}, images)
        ratios = ", ".join(f"{seconds[name] / seconds['plain']:.3f} with {name}" for name in clones)
        tell(f"steps while calibrating, over plain ones, batch of {images}", ratios)
    for rows, session in sessions.items():
        tell(f"statistics on disk, {rows:,} rows", f"{session.path.stat().st_size / 1e6:,.0f} MB")
    return sessions[1024]


def written(subject: Subject, session: Any, name: str, rounding: str) -> Path:
    from hswq.hswq_core import api  # type: ignore[import-not-found]

    target = subject.folder / f"{name.replace(' ', '_')}_{rounding}.safetensors"
    started = time.perf_counter()
    with peak() as most:
        options = {**FILES[name], "keep_ratio": 0.1, "rounding": rounding}
        api.quantize(subject.source, target, session.statistics, overwrite=True, **options)
    tell(f"writing {name}, {rounding}", f"{time.perf_counter() - started:.1f} s, {most() / 1e9:.2f} GB of the card")
    return target


def opened(name: str, path: Path, **loading: Any) -> Any:
    import comfy.sd
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    return comfy.sd.load_diffusion_model(str(path)) if name in OF_STOCK else load_diffusion_model(path, **loading)[0]


def modes(subject: Subject, stock: Any, files: dict[str, Path]) -> None:
    """Speed and memory of each mode beside FP16, one at a time, since not all fit into a small card together."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def compiled(model: Any) -> Any:
        clone = model.clone()
        set_torch_compile_wrapper(clone, backend="inductor" if torch.cuda.is_available() else "aot_eager")
        return clone

    full = weights_on_card(stock)
    tell("FP16: weights on the card", f"{full / 1e6:,.0f} MB")
    for name, path in files.items():
        model = opened(name, path)
        size = weights_on_card(model)
        share = f", {size / full:.3f} of FP16" if full else ""
        tell(f"{name}: weights on the card", f"{size / 1e6:,.0f} MB{share}")
        for images in (1, 4):
            seconds = subject.alternated({"FP16": stock, name: model}, images)
            tell(f"{name}: speed over FP16, batch of {images}", f"{seconds['FP16'] / seconds[name]:.3f}")
        if name == "v2":
            seconds = subject.alternated({"FP16": stock, "fp8": opened(name, path, fast=True)}, 1)
            tell("v2 with compute fast: speed over FP16, batch of 1", f"{seconds['FP16'] / seconds['fp8']:.3f}")
        if name in COMPILED:
            seconds = subject.alternated({"FP16": compiled(stock), name: compiled(model)}, 1)
            ratio = seconds["FP16"] / seconds[name]
            tell(f"{name} compiled: speed over compiled FP16", f"{ratio:.3f} ({seconds['FP16']:.2f} s)")
            torch.compiler.reset()


def sensitivity(subject: Subject, stock: Any, session: Any) -> None:
    from hswq.hswq_core.options import MODEL_CARD  # type: ignore[import-not-found]
    from hswq.loader.impact import measure_impacts  # type: ignore[import-not-found]

    call = subject.in_steps(stock) / (subject.steps - 1)
    started = time.perf_counter()
    with peak() as most:
        before = allocated()
        how = {"purposes": [MODEL_CARD], "probes": 8, "method": "gradient"}
        layers = sorted(session.statistics.layers)
        dict(measure_impacts(stock, session.statistics, layers, progress=lambda *_: None, **how))
    seconds = time.perf_counter() - started
    took = f"{seconds:.1f} s, as {seconds / call:.0f} steps; {(most() - before) / 1e9:.2f} GB beside the model"
    tell("measuring sensitivity by gradients", took)


def limited(subject: Subject, session: Any, files: dict[str, Path], gigabytes: int) -> None:
    """The same on a card of so many gigabytes: ComfyUI is told of no more, and torch may not take more."""
    import comfy.model_management
    import comfy.sd
    from hswq.loader.calibrate import calibrated_clone  # type: ignore[import-not-found]

    unload()
    limit = total = gigabytes << 30
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total)
        comfy.model_management.EXTRA_RESERVED_VRAM += total - limit
    stock = comfy.sd.load_diffusion_model(str(subject.source))
    runs = {"FP16": stock, "FP16 calibrated with 1,024 rows": calibrated_clone(stock, session, 1024)}
    runs |= {name: opened(name, files[name]) for name in ("v2", "int8")}
    base = 0.0
    for name, model in runs.items():
        with peak() as most:
            subject.draw(model)
            seconds = subject.in_steps(model)
        base = base or seconds
        tell(f"{gigabytes} GB card, {name}", f"{seconds / base:.3f} of FP16's time, {most() / 1e9:.2f} GB at most")
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
        comfy.model_management.EXTRA_RESERVED_VRAM -= total - limit


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--small", action="store_true", help="the bundled tiny model, to see that it runs")
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    import comfy.sd

    args.folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}\n\n| | |\n|---|---|", flush=True)
    subject = small(args.folder) if args.small else sdxl(args.folder)
    stock = comfy.sd.load_diffusion_model(str(subject.source))
    weights_on_card(stock)
    session = calibration(subject, stock)
    sensitivity(subject, stock, session)
    files = {name: written(subject, session, name, "nearest") for name in FILES}
    modes(subject, stock, files)
    for gigabytes in CARDS:
        limited(subject, session, files, gigabytes)
    for name in ("v2", "int8"):
        written(subject, session, name, "calibrated")


if __name__ == "__main__":
    main()
