"""The whole path at SDXL's true size on a real server without a card: seconds, memory, and how long it was deaf.

    python -m benchmarks.scale --comfyui DIR --folder DIR      # 25 GB of disk, 24 GB of memory, 40 minutes

A checkpoint of random weights in SDXL's real shapes (6.9 GB, text encoders and VAE included), 256 x 256 pixels, 2 steps
with guidance. Each step of the path is queued as the page would; what ran before is in ComfyUI's cache. *own* is the
most memory of the server that no file backs, *mapped* the most that one does and that the system can take back. *deaf*
is the longest that the server took to answer a page that asks for its queue all the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.support import workflows as w
from tests.support.server import ComfyServer

from . import inprocess_comfy
from .memory import resident
from .quantize import make_checkpoint

SOURCE, SESSION, STEPS = "random_sdxl.safetensors", "scale", 2
MIXED = "55.6%"
"""Of the file's bytes: the UNet has 40 % of its own."""


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


def sampled(loader: str) -> w.Workflow:
    """A picture with the model that a loader node gives."""
    model, clip, vae = ([loader, output] for output in range(3))
    return w.sampling(model, clip, vae, loader, prompt="", steps=STEPS, cfg=7.0)


def loader(name: str) -> dict[str, Any]:
    return w.node("HSWQLoader", ckpt_name=name)


def calibrated(samples: int) -> w.Workflow:
    return {
        "original": loader(SOURCE),
        "run": w.node(
            "HSWQCalibrateRun", model=["original", 0], clip=["original", 1], samples=samples, steps=STEPS, cfg=7.0,
            seed=0, sampler_name="euler", scheduler="normal", width=256, height=256, session=SESSION, prompts="",
            negative="", rows_per_layer=1024,
        ),
        "report": w.node("HSWQReport", stats=["run", 0], keep_ratio=0.25),
        "chart": w.node("PreviewImage", images=["report", 0]),
    }  # fmt: skip


def written(name: str, mode: str, **more: Any) -> w.Workflow:
    """A file of this name, of the session's statistics."""
    options = {"source": SOURCE, "keep_ratio": 0.25, "overwrite": True, **more}
    return calibrated(2) | {name: w.quantize(["run", 0], mode=mode, filename=name, **options)["quantize"]}


def path_through() -> Mapping[str, w.Workflow]:
    """Every step by its name: the workflow of all that it needs."""
    return {
        "sample with the original": {"original": loader(SOURCE)} | sampled("original"),
        "calibrate one picture, 1,024 rows": calibrated(1),
        "add another to the session": calibrated(2),
        "write V2, by variance": written("scale_plain", "v2"),
        "measure, and write V2": written("scale_v2", "v2", selection="measured", model=["original", 0]),
        "write int8, by variance": written("scale_int8", "int8"),
        "measure for mixed, and write 40 %": written("scale_mixed", "mixed", budget=MIXED, model=["original", 0]),
        "sample with V2": {"quantized": loader("scale_v2.safetensors")} | sampled("quantized"),
        "sample with int8": {"quantized": loader("scale_int8.safetensors")} | sampled("quantized"),
        "sample with mixed": {"quantized": loader("scale_mixed.safetensors")} | sampled("quantized"),
    }


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--only", nargs="+", default=["*"], help="these steps alone: names with * and ?")
    args = parser.parse_args()
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
            if not any(fnmatch(name, pattern) for pattern in args.only):
                continue
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
