"""A running ComfyUI, driven over HTTP as its page drives it: a workflow is queued, and its outputs are waited for."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from hswq_core.errors import HSWQError


class ServerError(HSWQError):
    """ComfyUI cannot be reached, or refuses or fails a workflow.

    Args:
        status: of its answer in HTTP; 0 where it did not refuse.
        answer: what it answered then, as JSON.
    """

    def __init__(self, what: str, *, status: int = 0, answer: Any = None, **more: Any) -> None:
        super().__init__(what, **more)
        self.status, self.answer = status, answer


class ComfyUIClient:
    """Args:
    address: as http://127.0.0.1:8188.
    poll: seconds between two questions whether a workflow has ended.
    """

    def __init__(self, address: str, poll: float = 0.5) -> None:
        self.address, self._poll = address.rstrip("/"), poll

    def run(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a workflow (in the form of the API) and wait for what its nodes show, by node.

        Errors: ServerError when ComfyUI does not know a node or a value, a node fails, or it was started anew.
        """
        return self.wait(self.queue(workflow))

    def queue(self, workflow: Mapping[str, Any], **more: Any) -> str:
        """Queue a workflow. Returns its name. Errors: ServerError when ComfyUI does not take it.

        Args:
            more: of the request, as ``client_id``, by which a websocket hears of it.
        """
        return self.post("/prompt", {"prompt": workflow, **more})["prompt_id"]

    def wait(self, prompt: str) -> dict[str, Any]:
        """What the nodes of a workflow show, by node, when it has ended. Errors: ServerError, as for ``run``."""
        while (found := self._ended(prompt)) is None:
            time.sleep(self._poll)
        status = found["status"]
        if status["status_str"] != "success":
            failed = [said for kind, said in status["messages"] if kind == "execution_error"]
            why = failed[-1]["exception_message"].strip() if failed else "the workflow was interrupted"
            raise ServerError(why.rstrip("."), where=self.address, remedy="See ComfyUI's log")
        return found["outputs"]

    def _ended(self, prompt: str) -> dict[str, Any] | None:
        """What became of a workflow; ``None`` while it waits or runs."""
        path = f"/history/{prompt}"
        if found := self.get(path).get(prompt):
            return found
        queued = [entry[1] for entries in self.get("/queue").values() for entry in entries]
        if prompt in queued:
            return None
        if found := self.get(path).get(prompt):  # it has ended since
            return found
        raise ServerError(
            "ComfyUI knows nothing of the workflow any more",
            where=self.address,
            remedy="It was started anew: run again",
        )

    def get(self, path: str) -> Any:
        """What it answers at an address of its own. Errors: ServerError when it does not answer, or refuses."""
        return self._ask(urllib.request.Request(self.address + path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What it answers to a request; ``None`` for nothing. Errors: as for ``get``."""
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self.address + path, json.dumps(body).encode("utf-8"), headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, self.address) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"ComfyUI does not answer ({reason})", where=self.address, remedy="Start it, or give --server"
            ) from error


def _refusal(error: urllib.error.HTTPError, address: str) -> ServerError:
    """What ComfyUI says of a request that it does not take, in one line."""
    said, what = None, f"ComfyUI answers {error.code}"
    try:
        said = json.load(error)
        details = [f"{e['message']}: {e['details']}" for node in said["node_errors"].values() for e in node["errors"]]
        what = "; ".join(details) or said["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not an answer about a workflow
    return ServerError(what, status=error.code, answer=said, where=address, remedy="Check the names and options")
