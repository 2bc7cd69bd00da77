"""The farm's parts without a server: the store, what a worker asks of ComfyUI, and the board."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from farm.board import Board
from farm.comfyui import ServerError
from farm.estimate import duration
from farm.execute import Outcome
from farm.ray_executor import files_in, unpack
from farm.results import put_results
from farm.store import Store
from farm.tasks import Task
from farm.worker import Worker, comfyui_of_this_node
from hswq_core.errors import TargetError
from hswq_core.proof import Pair, Proof
from hswq_core.proof.comparison import PAGE
from hswq_core.version import __version__


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "tasks")
    with pytest.raises(KeyError), store.making("quantize-1") as folder:
        (folder / "half").write_text("x")
        raise KeyError
    assert not store.has("quantize-1") and not list(store.folder.iterdir())
    with store.making("quantize-1") as folder:
        (folder / "whole").write_text("x")
    with store.making("quantize-1") as folder:  # another worker was faster
        (folder / "again").write_text("y")
    assert [path.name for path in store.result("quantize-1").iterdir()] == ["whole"]
    assert [entry["task"] for entry in store.journal()] == ["quantize-1"]
    assert set(store.seconds_by_kind()) == {"quantize"}


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.making("merge-1") as mine:
        dead = mine.with_name(mine.name.replace(f"-{os.getpid()}", "-4194304"))
        elsewhere = mine.with_name(".unfinished-merge-1-another.host-4194304")
        dead.mkdir()
        elsewhere.mkdir()
        store.remove_leftovers()
        assert mine.exists() and elsewhere.exists() and not dead.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TargetError, match="could not be written"), Store(tmp_path / "file" / "tasks").making("merge-1"):
        pass


class FakeServer:
    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer = answer

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/hswq/version"
        if self.answer is None:
            raise ServerError("ComfyUI answers 404")
        return self.answer


def test_a_farm_is_of_one_version(tmp_path: Path) -> None:
    worker = Worker(tmp_path, [], 1)
    worker._check_pack(FakeServer({"version": __version__}))  # type: ignore[arg-type]
    with pytest.raises(ServerError, match=rf"its HSWQ is 9\.9\.9, and the farm's is {__version__}"):
        worker._check_pack(FakeServer({"version": "9.9.9"}))  # type: ignore[arg-type]
    with pytest.raises(ServerError, match="has not the nodes of HSWQ"):
        worker._check_pack(FakeServer(None))  # type: ignore[arg-type]
    worker.close()


def test_a_node_without_comfyui_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for value in ("", str(tmp_path / "missing")):
        monkeypatch.setenv("COMFYUI_PATH", value)
        with pytest.raises(ServerError, match="no ComfyUI is named"):
            comfyui_of_this_node()


def test_results_travel_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_bytes(b"\0\1")
    (tmp_path / "a" / "y").write_bytes(b"")
    files = files_in(tmp_path / "a")
    unpack(files, tmp_path / "b")
    assert files_in(tmp_path / "b") == files and len(files) == 2


def test_the_board_counts_what_is_done_and_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "tasks")
    tasks = [Task("merge", Path(f"{name}.safetensors"), f"{name}: add up", {}) for name in ("a", "b", "c")]
    with store.making(tasks[0].name):
        pass
    with Board(tasks, store, 1) as board:
        board.tell(Outcome(tasks[0].name, tasks[0].label, seconds=1.25))
        board.tell(Outcome(tasks[1].name, tasks[1].label, "it broke"))
    said = capsys.readouterr().err
    assert "a: add up: done in 1.2 s" in said and "b: add up: failed: it broke" in said
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(board._table())
    row = next(line for line in drawn.get().splitlines() if "merge" in line)
    assert [part.strip() for part in row.strip("│ ").split("│")] == ["merge", "1", "3", "1"]
    assert [duration(seconds) for seconds in (5, 65, 7260)] == ["5 s", "1 min 5 s", "2 h 1 min"]


def test_results_get_their_own_names_once(tmp_path: Path) -> None:
    store, checkpoint = Store(tmp_path / "tasks"), Path("model.safetensors")
    written = Task("quantize", checkpoint, "write", {})
    proved = Task("prove", checkpoint, "prove", {}, (written,))
    for task, name in ((written, "model_v2.safetensors"), (proved, "proof.html")):
        with store.making(task.name) as folder:
            (folder / name).write_text(name)

    class FakeRecipe:
        folder = tmp_path

    for _ in range(2):
        put_results(FakeRecipe(), store, [written, proved])  # type: ignore[arg-type]
    found = sorted(str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").rglob("*.*"))
    assert found == ["model/model_v2.safetensors", "model/model_v2_proof/proof.html"]


def test_several_proved_outputs_of_a_checkpoint_are_compared(tmp_path: Path) -> None:
    store, checkpoint, tasks = Store(tmp_path / "tasks"), Path("model.safetensors"), list[Task]()
    pair = Pair("a", 1, (1.0,), (0.01,), (1e-4,), 0.97, 31.0)
    for mode in ("v2", "int8"):
        name = f"model_{mode}.safetensors"
        written = Task("quantize", checkpoint, "write", {"mode": mode})
        proved = Task("prove", checkpoint, "prove", {}, (written,))
        with store.making(written.name) as folder:
            (folder / name).write_text("")
        with store.making(proved.name) as folder:
            (folder / "proof.html").write_text("")
            (folder / "proof.json").write_text(json.dumps(Proof("model.safetensors", name, (pair,)).as_dict()))
        tasks += [written, proved]

    class FakeRecipe:
        folder = tmp_path

    put_results(FakeRecipe(), store, tasks)  # type: ignore[arg-type]
    place = tmp_path / "results" / "model"
    rows = json.loads((place / "comparison.json").read_text("utf-8"))["candidates"]
    assert [row["page"] for row in rows] == ["model_int8_proof/proof.html", "model_v2_proof/proof.html"]
    assert all((place / row["page"]).is_file() and row["page"] in (place / PAGE).read_text("utf-8") for row in rows)
