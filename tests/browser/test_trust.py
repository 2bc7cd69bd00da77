"""No perfect score for the wrong file."""

from __future__ import annotations

from hswq_core import quantize
from tests.browser.test_page import small
from tests.support.examples import COMPARE
from tests.support.page import ComfyPage
from tests.support.server import TINY_CHECKPOINT, ComfyServer


def test_comparing_without_quantized_files_says_so(page: ComfyPage, server: ComfyServer) -> None:
    """The compare workflow, dropped and run untouched, where there is nothing but the original."""
    hidden = [path.rename(path.with_suffix(".away")) for path in (server.output / "checkpoints").glob("*.safetensors")]
    try:
        page.open()
        page.clear()
        page.drop(COMPARE)
        page.page.wait_for_timeout(1500)
        said = page.texts("hswq-badge")
        assert "there is no V1 file yet" in said and "there is no V2 file yet" in said
        small(page)
        assert page.run() == "success"
        assert page.texts("hswq-sentence").count("Identical image") == 2
    finally:
        for path in hidden:
            path.rename(path.with_suffix(".safetensors"))


def test_fields_for_a_format_take_a_file_of_that_format(page: ComfyPage, server: ComfyServer, renderer: str) -> None:
    for mode in ("v1", "v2"):
        target = server.output / "checkpoints" / f"kind_{mode}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            quantize(TINY_CHECKPOINT, target, mode=mode, keep_ratio=0)
    page.open()
    page.clear()
    page.drop(COMPARE)
    page.page.wait_for_timeout(1500)
    chosen = page.page.evaluate(
        "() => window.app.graph._nodes.filter((n) => n.type === 'HSWQLoader').sort((a, b) => a.pos[0] - b.pos[0])"
        ".map((n) => n.widgets.find((w) => w.name === 'ckpt_name').value)"
    )
    kinds = [server.get(f"/hswq/file?list=checkpoints&name={name}")["format"] for name in chosen]
    assert kinds == ["v1", "v2"], (renderer, chosen)
