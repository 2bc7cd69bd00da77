"""A format that was registered, from the nodes to the loaded model."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support import workflows as w
from tests.support.probing import PROBE, exact, loaded, probe
from tests.support.server import REPOSITORY, ComfyServer


def test_a_registered_format_is_written_and_loaded(comfyui: Path, tmp_path: Path) -> None:
    toy = REPOSITORY / "tests/toy_format"
    with ComfyServer(comfyui, tmp_path, packs=(PROBE, toy)) as server:
        server.run({"register": w.node("RegisterToyFormat")})
        flow = w.calibrated("cal", session="toy", steps=1)
        flow |= w.quantize(["calibrate", 1], ["cal_sampler", 0], mode="toy", filename="toy", keep_ratio=0.1)
        server.run(flow)
        written = load_file(server.output / "checkpoints/toy.safetensors")
        assert sum(tensor.dtype == torch.int8 for tensor in written.values()) > 10
        save_file(exact(written), server.checkpoints / "toy_exact.safetensors")
        server.get("/object_info")
        found = probe(server, "toy", loaded("toy.safetensors"))
        assert any(tensor.dtype == torch.int8 for tensor in found.values())
        stock = {"loader": w.node("CheckpointLoaderSimple", ckpt_name="toy_exact.safetensors")}
        expected = probe(server, "exact", stock)["unet.output"]
        assert (found["unet.output"] - expected).norm() <= 1e-3 * expected.norm()
