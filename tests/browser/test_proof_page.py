"""proof.html opened from the disk, without a network."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from hswq_core.proof import Pair, Proof, proof_page
from hswq_core.proof.page import Pictures
from tests.browser.conftest import OUTPUT


def picture(colour: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def test_the_page_works_from_the_disk(browser: Browser, tmp_path: Path) -> None:
    pair = Pair("a cat", 1, (0.999, 0.998), (1e-5, 2e-4), (1e-4,), 0.97, 31.0)
    pictures = Pictures(picture("red"), picture("blue"), picture("black"))
    path = tmp_path / "proof.html"
    path.write_text(proof_page(Proof("original", "copy", (pair,)), [pictures]), "utf-8")
    said: list[str] = []
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        assert page.locator(".verdict.good").inner_text() == "Practically the same image (SSIM 0.97)."
        assert page.locator(".gate").inner_text().startswith("Passed: mean cosine")
        assert page.locator("svg polyline").count() == 1
        candidate, handle = page.locator(".slider img").nth(1), page.locator(".slider input")
        clipped = "element => element.style.clipPath"
        assert "50%" in candidate.evaluate(clipped)
        handle.focus()
        handle.press("Home")
        assert "inset(0px)" in candidate.evaluate(clipped) or "0%" in candidate.evaluate(clipped)
        handle.press("End")
        assert "100%" in candidate.evaluate(clipped)
        page.screenshot(path=OUTPUT / "proof.png")
    assert not said
