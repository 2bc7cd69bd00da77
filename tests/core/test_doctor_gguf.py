"""GGUF files, by the package that reads them; and what is said where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hswq_core import diagnose
from hswq_core.errors import CheckpointError
from tests.core import doctor_files as files
from tests.core.capabilities import needs_gguf
from tests.core.doctor_cases import NEW, OLD, OURS


def written(folder: Path, kind: str) -> Path:
    """The diffusion model's Linear layers and its 3 x 3 convolution, by the package itself, as ComfyUI-GGUF has it."""
    import gguf

    path = folder / "model.gguf"
    writer: Any = gguf.GGUFWriter(path, "sdxl")
    quantization = gguf.GGMLQuantizationType[kind]
    for key, tensor in files.original().items():
        if not key.startswith(files.UNET):
            continue
        name, values = key.removeprefix(files.UNET), tensor.float().numpy()
        if name.endswith(".weight") and tensor[0].numel() % 32 == 0 and tensor.dim() > 1:
            if tensor.dim() == 4:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in tensor.shape])
            rows = values.reshape(len(values), -1)
            writer.add_tensor(name, gguf.quants.quantize(rows, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(name, tensor.half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@needs_gguf
@pytest.mark.parametrize(("kind", "bits", "error"), [("Q8_0", 8.5, 5e-5), ("Q5_1", 6.0, 3e-3), ("Q4_0", 4.5, 1e-2)])
def test_every_line_is_right(kind: str, bits: float, error: float, tmp_path: Path) -> None:
    path, original = written(tmp_path, kind), files.save(tmp_path, files.original(), name="original")
    found = diagnose(path, card="RTX 3060", original=original)
    (group,) = found.groups
    assert (group.group.kind.label, len(group.group.layers), group.group.bits) == (f"GGUF {kind}", 8, bits)
    assert group.group.group == "32" and found.container == "gguf" and found.family == "stable-diffusion"
    assert [(kept.layers, kept.dtypes) for kept in found.kept] == [(1, {"F16": 1})]
    outcomes = {opening.loader: opening.outcome for opening in found.openings}
    assert outcomes == {OLD: "refuses", NEW: "refuses", OURS: "refuses", "ComfyUI-GGUF": "opens"}
    assert [(action.loader, action.does) for action in group.actions] == [("ComfyUI-GGUF", "expands in each call")]
    assert found.metadata["general.architecture"] == "sdxl" and not found.findings
    compared = found.comparison
    assert compared is not None and len(compared.layers) == 8 and compared.unchanged == 1
    assert all(error / 3 < layer.weight < error * 3 for layer in compared.layers)


@needs_gguf
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_told(share: float, tmp_path: Path) -> None:
    path = written(tmp_path, "Q8_0")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        diagnose(path)


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match="pip install gguf"):
        diagnose(path)


def test_the_package_is_not_asked_for_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    path = files.save(tmp_path, {"x.weight": torch.ones(4, 4).half()})
    assert diagnose(path).container == "safetensors"
