"""Whatever becomes of a file whose model is in use, the server lives, and says so or makes the same image."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support import workflows as w
from tests.support.probing import PROBE
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError

NAME = "changing.safetensors"
CHANGES = ("cut", "written over", "replaced", "removed")


@pytest.fixture(scope="module")
def changing(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui, tmp_path_factory.mktemp("reading"), packs=(PROBE,)) as server:
        yield server


def flow_with(how: str, **loading: str) -> w.Workflow:
    """An image of a model whose file is changed between loading and sampling."""
    flow: w.Workflow = {"loader": w.node("HSWQLoader", ckpt_name=NAME, **loading)}
    flow["changed"] = w.node("ProbeFileChanged", model=["loader", 0], name=NAME, how=how)
    model = ["changed", 0] if how else ["loader", 0]
    return flow | w.sampling(model, ["loader", 1], ["loader", 2], "image", steps=2)


def new_file(server: ComfyServer) -> None:
    (server.checkpoints / NAME).unlink(missing_ok=True)
    shutil.copy(TINY_CHECKPOINT, server.checkpoints / NAME)
    server.get("/object_info")


def mapped_files(server: ComfyServer) -> list[str]:
    """The model files, statistics among them, that the server holds a mapping of."""
    lines = Path(f"/proc/{server.process_id}/maps").read_text("utf-8", "surrogateescape").splitlines()
    return sorted({line.split(maxsplit=5)[-1] for line in lines if str(server.base) in line})


@pytest.mark.parametrize("how", CHANGES)
def test_a_model_in_memory_does_not_know_what_becomes_of_its_file(changing: ComfyServer, how: str) -> None:
    images = []
    for change in ("", how):
        new_file(changing)
        (file,) = changing.images(changing.run(flow_with(change)), "image_image")
        images.append(Image.open(file).tobytes())  # without the workflow in it
    assert images[0] == images[1]
    assert not mapped_files(changing)


@pytest.mark.parametrize("how", CHANGES)
def test_a_mapped_model_is_refused_when_its_file_was_changed_in_place(changing: ComfyServer, how: str) -> None:
    new_file(changing)
    if how in ("replaced", "removed"):  # the mapping keeps what was there
        changing.run(flow_with(how, reading="mapped"))
    else:
        with pytest.raises(ExecutionError, match=rf"{NAME}: the file was changed while .* Load it again"):
            changing.run(flow_with(how, reading="mapped"))
    new_file(changing)
    changing.run(flow_with("", reading="mapped"))
    assert [Path(file).name for file in mapped_files(changing)] == [NAME]


def test_the_log_says_how_files_are_read(changing: ComfyServer) -> None:
    for reading, said in (("auto", "read into memory (0.01 GB, of "), ("mapped", "mapped, as chosen (0.01 GB)")):
        new_file(changing)
        changing.run(flow_with("", reading=reading))
        assert f"HSWQ: {NAME} is {said}" in changing.log


def test_no_node_of_ours_holds_a_mapping(comfyui: Path, tmp_path: Path) -> None:
    with ComfyServer(comfyui, tmp_path) as server:
        flow = {"loader": w.node("HSWQLoader", ckpt_name=w.TINY)}
        model, clip, vae = ["loader", 0], ["loader", 1], ["loader", 2]
        sampling = {"clip": clip, "prompts": "apple", "width": 256, "height": 256, "steps": 2, "cfg": 3.0}
        sampling |= {"sampler_name": "euler", "scheduler": "normal"}
        steps = [
            {
                "run": w.node(
                    "HSWQCalibrateRun", model=model, session="mapped", rows_per_layer=64, samples=2, seed=1,
                    negative="", **sampling,
                ),
                "shown": w.node("HSWQReport", stats=["run", 0], keep_ratio=0.1),
                "chart": w.node("PreviewImage", images=["shown", 0]),
            },
            {
                "measure": w.node("HSWQMeasureSensitivity", model=model, stats=["run", 0], mode="v2", probes=1),
                **w.quantize(["measure", 0], selection="measured", rounding="calibrated", filename="m", overwrite=True),
            },
            {
                "file": w.node("HSWQLoadStatistics", file="mapped.safetensors"),
                "both": w.node("HSWQMergeStatistics", a=["file", 0], b=["file", 0]),
                "of_both": w.node("HSWQReport", stats=["both", 0], keep_ratio=0.1),
                "chart_of_both": w.node("PreviewImage", images=["of_both", 0]),
            },
            {
                "copy": w.node("HSWQLoader", ckpt_name=w.TINY, path=["quantize", 0]),
                "prove": w.node(
                    "HSWQProve", reference=model, candidate=["copy", 0], vae=vae, seeds=1, save_images=False, **sampling
                ),
                "publish": w.node("HSWQPublish", path=["quantize", 0], proof=["prove", 2]),
            },
            w.quantize(["run", 0], model=model, clip=clip, vae=vae, filename="connected", overwrite=True),
        ]  # fmt: skip
        for step in steps:
            flow |= step
            server.run(flow)
            assert not mapped_files(server), list(step)
            server.get("/object_info")


def test_a_server_that_maps_nothing_and_whose_console_has_few_characters(comfyui: Path, tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    with ComfyServer(comfyui, tmp_path, ("--disable-mmap",), environment=environment) as server:
        name = "\u6a21\u578b.safetensors"
        (server.checkpoints / name).write_bytes(TINY_CHECKPOINT.read_bytes()[:5_000_000])
        server.get("/object_info")
        with pytest.raises(ExecutionError, match=f"{name}: the file is truncated"):
            server.run(w.hswq_loaded("bad", name), timeout=60)
        shutil.copy(TINY_CHECKPOINT, server.checkpoints / name)
        server.get("/object_info")
        flow = w.hswq_loaded("good", name, steps=1)
        flow["good_loader"]["inputs"]["reading"] = "mapped"
        assert server.run(flow, timeout=60) and not mapped_files(server)
        line = next(line for line in server.log.splitlines() if r"HSWQ: \u6a21\u578b.safetensors is " in line)
        assert "is read into memory" in line and line.endswith("as --disable-mmap says")
        assert "Logging error" not in server.log
