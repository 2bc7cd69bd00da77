"""How far quantized models drift from the original, at which size: the reference's method, ours, and other tools'.

    python -m benchmarks.fidelity --comfyui DIR [--images 64] [--output DIR] [--peers DIR]

On the bundled tiny model: 31 prompts to calibrate with, 64 others to judge by. Two measures, both against the
FP16 model: *UNet error*, |y_q - y|^2 / |y|^2 of the UNet's output on the FP16 model's own trajectories, all
steps (teacher-forced, the first 32 prompts), with its median over prompts and what the file says of it beforehand;
and *latent MSE* of the final latents, each model on its own trajectory. ``--peers`` is a folder of checkpoints made
by ``benchmarks.peers`` or ``benchmarks.peers_small``; a mixed file of the bytes of each is judged beside it. Writes
fidelity.json; models that are in it already, judged by as many images on the same machine, are not judged again.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from . import inprocess_comfy
from .prompts import CALIBRATION, HELD_OUT
from .variants import variants

BATCH = 32
PROBES = 8
ROWS = 8192


class Judge:
    """Compares a checkpoint with the original on held-out prompts."""

    def __init__(self, original: Path, images: int) -> None:
        self._batches = [HELD_OUT[:images][i : i + BATCH] for i in range(0, images, BATCH)]
        model = inprocess_comfy.LoadedModel(original)
        calls: list[tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]] = []

        def record(_unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            kept = {k: v.cpu() for k, v in kwargs.items() if isinstance(v, torch.Tensor)}
            calls.append((tuple(a.cpu() for a in args if isinstance(a, torch.Tensor)), kept, output.float().cpu()))

        hook = model.unet.register_forward_hook(record, with_kwargs=True)
        first = self._draw(model, 0)
        hook.remove()
        self._latents = torch.cat([first, *(self._draw(model, i) for i in range(1, len(self._batches)))])
        self.images, self._calls = model.images(self._latents), calls

    def figures(self, checkpoint: Path, **loading: Any) -> dict[str, Any]:
        from hswq.hswq_core import inspect  # type: ignore[import-not-found]
        from hswq.hswq_core.metrics import compare_images  # type: ignore[import-not-found]

        model = inprocess_comfy.LoadedModel(checkpoint, **loading)
        latents = self.latents(model)
        each = (latents - self._latents).double().square().mean((1, 2, 3))
        compared = compare_images(self.images, model.images(latents))
        return {
            "bytes": checkpoint.stat().st_size,
            "unet_error": self.unet_error(model),
            "unet_error_each": self.unet_errors(model),
            "predicted_error": inspect(checkpoint).predicted_error,
            "latent_mse": float(each.mean()),
            "latent_mse_each": each.tolist(),
            "ssim": compared.ssim,
            "psnr": compared.psnr,
        }

    def latents(self, model: inprocess_comfy.LoadedModel) -> torch.Tensor:
        """The final latents of all prompts, from the original's noise."""
        return torch.cat([self._draw(model, i) for i in range(len(self._batches))])

    def _draw(self, model: inprocess_comfy.LoadedModel, batch: int) -> torch.Tensor:
        return model.latents(self._batches[batch], 1000 + batch).float().cpu()

    def unet_error(self, model: inprocess_comfy.LoadedModel) -> float:
        """|y_q - y|^2 / |y|^2 over all recorded calls, each call weighing the same."""
        each = [(out - y).square().sum() / y.square().sum() for out, y in self._outputs(model)]
        return float(sum(each)) / len(each)

    def unet_errors(self, model: inprocess_comfy.LoadedModel) -> list[float]:
        """The same for each prompt of the first batch, with and without its text."""
        prompts = len(self._batches[0])
        each = [((out - y).square().sum((1, 2, 3)) / y.square().sum((1, 2, 3))) for out, y in self._outputs(model)]
        return torch.stack(each).reshape(-1, prompts).mean(0).tolist()

    def _outputs(self, model: inprocess_comfy.LoadedModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What a model makes of each recorded call, and what the original made of it."""
        device = model.model.load_device
        for args, kwargs, expected in self._calls:
            moved = {k: v.to(device) for k, v in kwargs.items()}
            yield model.unet(*(a.to(device) for a in args), transformer_options={}, **moved).float().cpu(), expected


def calibrate(original: Path, path: Path, prompts: Sequence[str] = CALIBRATION) -> Any:
    """Statistics of calibration prompts, by the hooks that HSWQ Calibrate uses, on disk and in memory."""
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]

    model = inprocess_comfy.LoadedModel(original)
    session = CalibrationSession.open(path, model_fingerprint(model.model), reset=True)
    measured = calibrated_clone(model.model, session, ROWS)
    for start in range(0, len(prompts), 8):
        model.latents(prompts[start : start + 8], start, measured)
    return model, session.statistics


def measure(model: Any, statistics: Any, mode: str, rounding: str, method: str = "gradient", **more: Any) -> Any:
    """The statistics with every layer's effect on the UNet's output."""
    from hswq.hswq_core.options import QuantizeOptions  # type: ignore[import-not-found]
    from hswq.loader.impact import measure_impacts  # type: ignore[import-not-found]

    purposes = QuantizeOptions(mode=mode, rounding=rounding).purposes
    found = dict(
        measure_impacts(
            model.model, statistics, sorted(statistics.layers), purposes=purposes, method=method,
            progress=lambda _done, _total: None, **{"probes": PROBES, **more},
        )
    )  # fmt: skip
    for purpose in map(str, purposes):
        impacts = {name: each[purpose] for name, each in found.items() if purpose in each}
        statistics = statistics.with_impacts(impacts, purpose)
    return statistics


def write(original: Path, target: Path, statistics: Any, **options: Any) -> Path:
    from hswq.hswq_core.files.checkpoint import CheckpointReader  # type: ignore[import-not-found]
    from hswq.hswq_core.options import QuantizeOptions  # type: ignore[import-not-found]
    from hswq.hswq_core.planning import make_plan, match_source  # type: ignore[import-not-found]
    from hswq.hswq_core.quantize_file import quantize_checkpoint  # type: ignore[import-not-found]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with CheckpointReader(original) as source:
        matched = match_source(source, statistics)
        plan = make_plan(matched, QuantizeOptions(**options))
        quantize_checkpoint(matched, plan, target, overwrite=True, device=device)
    return target


def of_size(original: Path, statistics: Any, size: str, **options: Any) -> dict[str, Any]:
    """Options with the largest keep ratio at which the file is no larger."""
    from hswq.hswq_core import api  # type: ignore[import-not-found]

    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        fits = api.plan(original, statistics, keep_ratio=middle, **options).nbytes <= int(size)
        low, high = (middle, high) if fits else (low, middle)
    return {**options, "keep_ratio": low}


def confidence(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of means over paired images, by bootstrap."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
    drawn = torch.randint(len(a), (10_000, len(a)), generator=generator)
    low, high = (
        (a[drawn].mean(1) / b[drawn].mean(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    )
    return low, high


def table(results: dict[str, dict[str, Any]]) -> str:
    heads = f"{'model':<39}{'MB':>7}{'UNet error':>12}{'median':>10}{'predicted':>10}{'latent MSE':>12}{'median':>10}"
    heads += f"{'SSIM':>8}{'PSNR':>7}"
    lines = [f"{heads}   against the reference of its size"]
    for name, r in results.items():
        predicted = "" if r["predicted_error"] is None else f"{r['predicted_error']:.2e}"
        line = f"{name:<39}{r['bytes'] / 1e6:>7.3f}{r['unet_error']:>12.2e}{median(r['unet_error_each']):>10.2e}"
        line += f"{predicted:>10}{r['latent_mse']:>12.2e}{median(r['latent_mse_each']):>10.2e}"
        line += f"{r['ssim']:>8.4f}{r['psnr']:>7.2f}"
        how, mode, ratio = (*name.split(), "", "")[:3]
        rival = results.get(f"reference {'v2' if mode == 'int8' else mode} {ratio}")
        if rival is not None and how != "reference":
            low, high = confidence(r["latent_mse_each"], rival["latent_mse_each"])
            unet, latent = r["unet_error"] / rival["unet_error"], r["latent_mse"] / rival["latent_mse"]
            line += f"   UNet {unet:.4f}, latent {latent:.3f} [{low:.3f}, {high:.3f}]"
            line += f", median {median(r['latent_mse_each']) / median(rival['latent_mse_each']):.3f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=["*"], help="judge these models alone: names with * and ?")
    parser.add_argument("--output", type=Path, default=inprocess_comfy.ROOT / "fidelity_output")
    parser.add_argument("--peers", type=Path, help="a folder with checkpoints of peers")
    args = parser.parse_args()
    started = time.time()
    inprocess_comfy.start(args.comfyui)
    from hswq.hswq_core import api  # type: ignore[import-not-found]

    args.output.mkdir(parents=True, exist_ok=True)
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    model, statistics = calibrate(original, args.output / "statistics.safetensors")
    measured = cache(partial(measure, model, statistics))
    print(f"calibrated, {time.time() - started:.0f} s", flush=True)
    judge = Judge(original, args.images)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    origin = {"machine": machine, "torch": torch.__version__, "images": args.images, "rows": ROWS}
    file, candidate = args.output / "fidelity.json", args.output / "candidate.safetensors"
    results: dict[str, dict[str, Any]] = {}
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        found = before.pop("models")
        results = found if before == origin else {}

    def keep(name: str, figures: dict[str, Any]) -> None:
        results[name] = figures
        file.write_text(json.dumps({**origin, "models": results}, indent=1) + "\n", encoding="utf-8")
        print(f"{name}  {figures['unet_error']:.2e}  {figures['latent_mse']:.2e}", flush=True)

    def size(mode: str, ratio: float) -> int:
        """Bytes of a file with this keep ratio; of ``mixed``, with this share of the UNet's bytes."""
        plan = api.plan(original, statistics, mode="v2" if mode == "mixed" else mode, keep_ratio=ratio)
        if mode != "mixed":
            return plan.nbytes
        return plan.source.nbytes - round((1 - ratio) * plan.source_unet_bytes)

    for name, own, options in variants(statistics, measured, size):
        if name not in results and any(fnmatch(name, pattern) for pattern in args.only):
            chosen = of_size(original, own(), **options) if "size" in options else options
            in_stock = options["mode"] == "comfy-mixed"
            if in_stock and not inprocess_comfy.reads_nvfp4():
                continue
            keep(name, judge.figures(write(original, candidate, own(), **chosen), in_stock=in_stock))
    for path in sorted(args.peers.glob("*.safetensors")) if args.peers else []:
        # A peer's weights are stored as FP16 again; its size in its own format stands beside them.
        size = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["bytes"]
        if path.stem not in results:
            keep(path.stem, judge.figures(path) | {"bytes": size})
        if (name := f"mixed as {path.stem}") not in results:
            options = {"mode": "mixed", "rounding": "calibrated", "budget": str(size)}
            keep(name, judge.figures(write(original, candidate, measured("mixed", "calibrated"), **options)))
    candidate.unlink(missing_ok=True)
    print(f"{args.images} images, {machine}, torch {torch.__version__}, {time.time() - started:.0f} s")
    print(table(results))


if __name__ == "__main__":
    main()
