"""HSWQCalibrateRun: the whole recipe, 32 images of 25 steps, in one node."""

from __future__ import annotations

import time
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.errors import StatisticsError
from ..hswq_core.files.folders import writable_folder
from ..hswq_core.files.names import EXTENSION, safe_file_name
from ..hswq_core.log import get_logger
from ..loader.calibrate import calibrated_clone, check_conditioning, model_fingerprint
from ..loader.latents import empty_latent, given_latent
from ..loader.provenance import source_of, sources_of
from ..loader.sample import encode, previewer, sample
from .common import CATEGORY, DEFAULT_SESSION, HSWQStats, found_by, modification_time, session_for, statistics_folder
from .events import calibration_events
from .inputs import checked
from .prompts import choose_prompts
from .sampling import prompt_inputs, sampling_inputs, seed_input
from .sources import list_of, warn_of_format

logger = get_logger(__name__)


class HSWQCalibrateRun(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQCalibrateRun",
            display_name="HSWQ Calibrate Run",
            category=CATEGORY,
            **found_by("quantize", "fp8", "int8"),
            description=(
                "Makes the calibration images itself and measures the model while it does. Cancelling keeps "
                "the finished "
                "images; run the same session again to continue."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The full-precision model to calibrate."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                *prompt_inputs("images"),
                io.Int.Input("samples", default=32, min=1, max=4096, tooltip="How many images the session is to have."),
                *sampling_inputs("that you normally use with this model"),
                seed_input(0, "The seed of the first image. Each further image adds one."),
                io.String.Input(
                    "session",
                    default="default",
                    tooltip=(
                        "The name of the measurements, stored in output/hswq. "
                        "default: one session for each model, named as its file."
                    ),
                ),
                io.Int.Input(
                    "rows_per_layer",
                    default=1024,
                    min=0,
                    max=65536,
                    tooltip=(
                        "Input rows to sample from each layer, for calibrated rounding. SDXL: 1024 rows take 2.7 GB."
                    ),
                ),
                io.Boolean.Input(
                    "reset",
                    default=False,
                    optional=True,
                    tooltip="Discard what the session has measured and start again.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "An empty latent, for videos, sound and shapes of a length of your own. Not connected: one of "
                        "the model's own format, of the width and height above and of the usual length."
                    ),
                ),
            ],
            outputs=[HSWQStats.Output(display_name="stats", tooltip="The session's statistics, for HSWQ Quantize.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def fingerprint_inputs(cls, session: str, reset: bool = False, **_: Any) -> float:
        if reset:
            return float("nan")  # equals nothing, so ComfyUI's cache never applies
        # A session that was deleted or continued elsewhere must be read again.
        if session == DEFAULT_SESSION:  # named by the model's file, which is not known here
            return max((modification_time(path) for path in statistics_folder().glob(f"*{EXTENSION}")), default=0)
        return modification_time(statistics_folder() / f"{session}{EXTENSION}")

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompts: str,
        negative: str,
        samples: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        seed: int,
        session: str,
        rows_per_layer: int,
        reset: bool = False,
        latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        texts = choose_prompts(prompts)
        source = source_of(cls.hidden.prompt, cls.hidden.unique_id, list_of)
        warn_of_format(source)
        session = session_for(session, sources_of(cls.hidden.prompt, cls.hidden.unique_id, list_of, "model"))
        path = writable_folder(statistics_folder()) / safe_file_name(session, "session name")
        opened = CalibrationSession.open(path, model_fingerprint(model), reset=reset)
        events = calibration_events(cls.hidden.unique_id, session, samples)
        measured = calibrated_clone(model, opened, rows_per_layer, source, events)
        # All texts first: on a small card, text encoder and diffusion model would take turns for every image.
        wanted = {text: encode(clip, [text]) for text in texts[:samples]}
        unwanted = encode(clip, [negative])
        check_conditioning(unwanted, *wanted.values())
        bar, preview = comfy.utils.ProgressBar(samples * steps), previewer(model)
        began, first = time.monotonic(), min(opened.statistics.samples, samples)
        begin = empty_latent(model, 1, width, height) if latent is None else given_latent(model, latent)
        with opened.fewer_writes():
            for number in range(first, samples):

                def step(done: int, denoised: Any, *_: Any, number: int = number) -> None:
                    bar.update_absolute(number * steps + done + 1, samples * steps, preview(denoised))

                sample(
                    measured, wanted[texts[number % len(texts)]], unwanted,
                    begin, steps=steps, cfg=cfg, sampler=sampler_name,
                    scheduler=scheduler, seed=seed + number, callback=step,
                )  # fmt: skip
                spent = (time.monotonic() - began) / (number + 1 - first)
                left = spent * (samples - number - 1)
                logger.info("HSWQ: session %s: image %d of %d, %.0f s left", session, number + 1, samples, left)
        if opened.unwritten:
            raise StatisticsError(f"the images are made, but not written: {opened.unwritten.rstrip('.')}")
        return io.NodeOutput(opened)
