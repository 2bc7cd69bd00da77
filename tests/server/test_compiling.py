"""What torch.compile makes of models in 8 bits. Part of ``nox -s stress``."""

from pathlib import Path

import pytest

from tests.conftest import DEFAULT
from tests.support import workflows as w
from tests.support.probing import loaded
from tests.support.server import ComfyServer
from tests.support.telling import told_by

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("probing", ["default"], ids=[DEFAULT], indirect=True)
@pytest.mark.parametrize(("kind", "compute"), [("v2", "exact"), ("int8", "exact"), ("int8", "fast")])
def test_a_compiled_model_computes_the_same(probing: ComfyServer, kind: str, compute: str) -> None:
    flow = loaded(f"{kind}.safetensors")
    flow["loader"]["inputs"]["compute"] = compute
    flow["compiled"] = w.node("ProbeCompiled", model=["loader", 0])
    flow["text"] = w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)
    for name, model in (("plain", "loader"), ("compiled_run", "compiled")):
        flow |= w.sampling([model, 0], ["text", 1], ["text", 2], name, steps=2)
    flow["compare"] = w.node("HSWQCompare", reference=["plain_decode", 0], candidate=["compiled_run_decode", 0])
    flow["ssim"] = w.node("PreviewAny", source=["compare", 1])
    assert float(probing.run(flow)["ssim"]["text"][0]) >= 0.999


def test_compiling_cuts_a_quantized_model_no_more_often_than_the_original(comfyui: Path) -> None:
    breaks = told_by("tests.server.graph_breaks", comfyui)
    stock = breaks.pop("stock FP16")
    assert len(breaks) == 4 and all(len(reasons) <= len(stock) for reasons in breaks.values()), (stock, breaks)
