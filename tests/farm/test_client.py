"""A ComfyUI that is driven over HTTP: what happens when it loses a workflow, and which cards it is started for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from farm.comfyui import ComfyUIClient, ServerError
from farm.comfyui import server as server_module

DONE = {"status": {"status_str": "success"}, "outputs": {"1": {"text": ["made"]}}}


class Handler(BaseHTTPRequestHandler):
    """A server that answers from a list for each path; the last answer stays."""

    answers: dict[str, list[Any]]

    def do_GET(self) -> None:
        left = self.answers[self.path]
        self._answer(left.pop(0) if len(left) > 1 else left[0])

    def do_POST(self) -> None:
        self._answer({"prompt_id": "p"})

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def client() -> Iterator[ComfyUIClient]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield ComfyUIClient(f"http://127.0.0.1:{http.server_port}", poll=0.01)
    http.shutdown()
    http.server_close()
    thread.join()


def queue(*running: str) -> dict[str, Any]:
    return {"queue_running": [[0, each, {}] for each in running], "queue_pending": []}


def test_a_workflow_is_waited_for_while_it_is_queued(client: ComfyUIClient) -> None:
    Handler.answers = {"/history/p": [{}, {}, {"p": DONE}], "/queue": [queue("p")]}
    assert client.run({}) == DONE["outputs"]


def test_a_workflow_that_ends_between_two_questions(client: ComfyUIClient) -> None:
    Handler.answers = {"/history/p": [{}, {"p": DONE}], "/queue": [queue()]}
    assert client.run({}) == DONE["outputs"]


def test_a_server_that_was_started_anew_knows_nothing_of_it(client: ComfyUIClient) -> None:
    Handler.answers = {"/history/p": [{}], "/queue": [queue("p"), queue("other")]}
    with pytest.raises(ServerError, match="knows nothing of the workflow any more"):
        client.run({})


def test_a_server_that_is_gone(client: ComfyUIClient) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        ComfyUIClient("http://127.0.0.1:9").run({})


@pytest.mark.parametrize("card", ["cuda", "xpu", "none"])
def test_the_cpu_is_asked_for_where_there_is_no_card(monkeypatch: pytest.MonkeyPatch, card: str) -> None:
    for name in ("cuda", "xpu"):
        here = SimpleNamespace(is_available=lambda name=name: name == card)
        monkeypatch.setattr(torch, name, here, raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert server_module._without_a_card() == (["--cpu"] if card == "none" else [])
