"""Sessions while servers are killed and pages poll; some minutes, so in a nox session of its own."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket

from farm.comfyui import ServerError
from hswq_core import load_statistics
from tests.support import workflows as w
from tests.support.server import ComfyServer, ExecutionError

LOST = (ExecutionError, ServerError, OSError, websocket.WebSocketException, ValueError)
POLLED = "/hswq/curve?session=polled&source=(the%20calibrated%20model)&mode=v2&selection=variance"


@pytest.fixture
def two_servers(comfyui: Path, tmp_path: Path) -> Iterator[tuple[ComfyServer, ComfyServer]]:
    """Two servers that share one output folder."""
    shared = str(tmp_path / "shared")
    arguments = ("--output-directory", shared)
    first, second = (ComfyServer(comfyui, tmp_path / name, arguments) for name in ("one", "two"))
    with first, second:
        yield first, second


def one_run(seed: int, *, reset: bool = False) -> w.Workflow:
    flow = w.calibrated(
        "run", session="polled" if reset else "together", steps=2 if reset else 8, seed=seed, reset=reset
    )
    del flow["run_decode"]
    flow["run_image"] = w.node("SaveLatent", samples=["run_sampler", 0], filename_prefix="run")
    flow["run_empty"]["inputs"] |= {"width": 64, "height": 64}
    return flow


def test_two_servers_lose_no_finished_run_though_they_are_killed(
    two_servers: tuple[ComfyServer, ComfyServer], tmp_path: Path
) -> None:
    finished, cut_short = [0, 0], [0, 0]
    chance = random.Random(1)

    def work(number: int) -> None:
        server, seed = two_servers[number], 1000 * number
        while finished[number] < 25:
            seed += 1
            try:
                server.run(one_run(seed, "together", steps=8))
                finished[number] += 1
            except LOST:
                cut_short[number] += 1
                time.sleep(0.2)
                while True:
                    with contextlib.suppress(*LOST):
                        server.get("/system_stats")
                        break
                    time.sleep(0.2)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(10):
        time.sleep(chance.uniform(0.5, 2.0))
        server = two_servers[chance.randrange(2)]
        server.kill()
        server.start()
    for worker in workers:
        worker.join(600)
    found = load_statistics(tmp_path / "shared/hswq/together.safetensors")
    print(f"finished {finished}, cut short {cut_short}, in the file {found.runs}")
    assert sum(finished) == 50 and sum(finished) <= found.runs <= sum(finished) + sum(cut_short)
    assert not list((tmp_path / "shared/hswq").glob("*.tmp"))


def test_two_hundred_resets_under_ten_polling_pages(comfyui: Path, tmp_path: Path) -> None:
    with ComfyServer(comfyui, tmp_path / "polled") as server:
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(0.1):
                with contextlib.suppress(*LOST):
                    server.get(POLLED)

        pages = [threading.Thread(target=poll) for _ in range(10)]
        for page in pages:
            page.start()
        try:
            for seed in range(200):
                server.run(one_run(seed, "polled", steps=2, reset=True))
                assert load_statistics(server.output / "hswq/polled.safetensors").runs == 1
        finally:
            stop.set()
            for page in pages:
                page.join()
