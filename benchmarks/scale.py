"""The whole path at SDXL's true size on a real server without a card: seconds, memory, and how long it was deaf.

    python -m benchmarks.scale --comfyui DIR --folder DIR      # 25 GB of disk, 24 GB of memory, half an hour

A checkpoint of random weights in SDXL's real shapes (6.9 GB, text encoders and VAE included), 256 x 256 pixels, 2 steps
with guidance. Each step of the path is queued as the page would; what ran before is in ComfyUI's cache. *own* is the
most memory of the server that no file backs, *mapped* the most that one does and that the system can take back. *deaf*
is the longest that the server took to answer a page that asks for its queue all the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.server import ComfyServer

from . import inprocess_comfy
from .memory import resident
from .quantize import make_checkpoint

SOURCE, SESSION, SIZE, STEPS = "random_sdxl.safetensors", "scale", 256, 2
Workflow = dict[str, dict[str, Any]]


class Watch:
    """What a server takes of memory and how it answers, from its own beginning to ``stop``."""

    def __init__(self, server: ComfyServer) -> None:
        self.own = self.mapped = 0
        self.deaf = 0.0
        self._server, self._over = server, threading.Event()
        self._threads = [threading.Thread(target=look) for look in (self._look, self._ask)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.own = max(self.own, resident("RssAnon", self._server.process_id))
            self.mapped = max(self.mapped, resident("RssFile", self._server.process_id))

    def _ask(self) -> None:
        while not self._over.wait(0.1):
            asked = time.perf_counter()
            self._server.get("/queue")
            self.deaf = max(self.deaf, time.perf_counter() - asked)


def sampled(loader: str) -> Workflow:
    """A picture with the model that a loader node gives."""
    size = {"width": SIZE, "height": SIZE, "batch_size": 1}
    sampling = {"seed": 0, "steps": STEPS, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    texts = {name: [f"{loader}_{name}", 0] for name in ("positive", "negative")}
    nodes = {
        name: {"class_type": "CLIPTextEncode", "inputs": {"clip": [loader, 1], "text": ""}}
        for name, _ in texts.values()
    }
    return nodes | {
        f"{loader}_size": {"class_type": "EmptyLatentImage", "inputs": size},
        f"{loader}_sampler": {
            "class_type": "KSampler",
            "inputs": {"model": [loader, 0], "latent_image": [f"{loader}_size", 0], **texts, **sampling},
        },
        f"{loader}_decoded": {
            "class_type": "VAEDecode",
            "inputs": {"samples": [f"{loader}_sampler", 0], "vae": [loader, 2]},
        },
        f"{loader}_seen": {"class_type": "PreviewImage", "inputs": {"images": [f"{loader}_decoded", 0]}},
    }


def shown(statistics: str) -> Workflow:
    """The chart of what a node gives."""
    return {
        f"{statistics}_shown": {"class_type": "HSWQReport", "inputs": {"stats": [statistics, 0], "keep_ratio": 0.25}},
        f"{statistics}_chart": {"class_type": "PreviewImage", "inputs": {"images": [f"{statistics}_shown", 0]}},
    }


def loader(name: str) -> dict[str, Any]:
    return {"class_type": "HSWQLoader", "inputs": {"ckpt_name": name}}


def calibrated(samples: int) -> Workflow:
    inputs = {
        "model": ["original", 0], "clip": ["original", 1], "samples": samples, "steps": STEPS, "cfg": 7.0, "seed": 0,
        "sampler_name": "euler", "scheduler": "normal", "width": SIZE, "height": SIZE, "session": SESSION,
        "prompts": "", "negative": "", "rows_per_layer": 1024,
    }  # fmt: skip
    return {"original": loader(SOURCE), "run": {"class_type": "HSWQCalibrateRun", "inputs": inputs}} | shown("run")


def written(name: str, mode: str, **more: Any) -> Workflow:
    """A file of this name, of the session's statistics."""
    inputs = {
        "source": SOURCE, "stats": ["run", 0], "mode": mode, "keep_ratio": 0.25, "selection": "variance",
        "rounding": "nearest", "filename": name, "overwrite": True,
    }  # fmt: skip
    return calibrated(2) | {name: {"class_type": "HSWQQuantize", "inputs": inputs | more}}


def path_through() -> Mapping[str, Workflow]:
    """Every step by its name: the workflow of all that it needs."""
    return {
        "sample with the original": {"original": loader(SOURCE)} | sampled("original"),
        "calibrate one picture, 1,024 rows": calibrated(1),
        "add another to the session": calibrated(2),
        "write V2, by variance": written("scale_plain", "v2"),
        "measure, and write V2": written("scale_v2", "v2", selection="measured", model=["original", 0]),
        "write int8, by variance": written("scale_int8", "int8"),
        "sample with V2": {"quantized": loader("scale_v2.safetensors")} | sampled("quantized"),
        "sample with int8": {"quantized": loader("scale_int8.safetensors")} | sampled("quantized"),
    }


def main() -> None:
    args = inprocess_comfy.parser(__doc__, folder=True).parse_args()
    base: Path = args.folder / "base"
    server = ComfyServer(args.comfyui, base)
    source = server.checkpoints / SOURCE
    if not source.exists():
        make_checkpoint(source, 1.0)
    (base / "output" / "hswq" / f"{SESSION}.safetensors").unlink(missing_ok=True)
    with server:
        empty = resident("RssAnon", server.process_id)
        print(
            f"{source.stat().st_size / 1e9:.2f} GB; the empty server holds {empty / 1e9:.2f} GB of its own", flush=True
        )
        print(f"{'':<36}{'seconds':>9}{'own GB':>9}{'mapped GB':>11}{'deaf s':>8}")
        for name, workflow in path_through().items():
            watch, began = Watch(server), time.perf_counter()
            try:
                server.run(workflow, timeout=3600)
            finally:
                watch.stop()
            seconds = time.perf_counter() - began
            figures = f"{seconds:>9.1f}{watch.own / 1e9:>9.2f}{watch.mapped / 1e9:>11.2f}{watch.deaf:>8.2f}"
            print(f"{name:<36}{figures}", flush=True)
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(5)
        print(f"freed: {resident('RssAnon', server.process_id) / 1e9:.2f} GB of its own")
    session = base / "output" / "hswq" / f"{SESSION}.safetensors"
    print(f"the session's file: {session.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
