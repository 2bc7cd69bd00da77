"""What the page is told while a node works: events of its server, if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..hswq_core.progress import Progress
from ..loader.calibrate import StepReport

_SECONDS_BETWEEN_EVENTS = 0.5


def announce(event: str, data: Mapping[str, Any]) -> None:
    """Tell the page that queued the running workflow: ``hswq.<event>``."""
    server = prompt_server()
    if server is not None:
        server.send_sync(f"hswq.{event}", dict(data), server.client_id)


def calibration_events(node: str | None, session: str, whole: int = 0) -> Callable[[StepReport], None]:
    """Turns the steps of calibrated sampling runs into ``hswq.progress`` events of one node.

    Args:
        whole: how many images the session is to have, where that is known; the time left is for all of them.
    """
    began, first = 0.0, -1.0

    def tell(report: StepReport) -> None:
        nonlocal began, first
        before = report.images if whole else 0
        goal = whole or report.batch
        done = before + report.batch * report.step / report.steps
        if first < 0 or (report.step == 1 and not whole):
            began, first = time.monotonic(), done  # the first step loads models, and says nothing about the rest
        left = (time.monotonic() - began) * (goal - done) / (done - first) if done > first else None
        announce(
            "progress",
            {
                "node": node,
                "session": session,
                "image": report.images + report.batch,
                "images": whole or report.images + report.batch,
                "step": report.step,
                "steps": report.steps,
                "share": min(1.0, done / goal),
                "seconds_left": left,
                "noise_levels": report.noise_levels,
                "left_out": report.left_out,
                "unwritten": report.unwritten,
            },
        )

    return tell


def work_events(node: str | None, progress: Progress, doing: str) -> Progress:
    """A progress function that also sends the page a node's progress, twice a second at most.

    Args: doing: what is done, in a word that the page has a sentence for.
    """
    began, told = 0.0, 0.0

    def tell(done: int, total: int) -> None:
        nonlocal began, told
        progress(done, total)
        now = time.monotonic()
        began = began or now
        if done < total and now - told < _SECONDS_BETWEEN_EVENTS:
            return
        told = now
        left = (now - began) * (total - done) / done if done else None
        announce("progress", {"node": node, "doing": doing, "share": done / max(total, 1), "seconds_left": left})

    return tell


def prompt_server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
