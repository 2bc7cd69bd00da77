"""The quick start as an app: newer pages show its results without its nodes."""

from __future__ import annotations

import pytest

from tests.browser.test_first_minute import quick_start
from tests.support.page import ComfyPage
from tests.support.server import TINY_CHECKPOINT

TOGGLE = "Comfy.ToggleLinear"
SHOWS_TEXTS = "() => window.__COMFYUI_FRONTEND_VERSION__.split('.').map(Number)[1] >= 49"  # 1.32 had images alone
SWITCH = f"async () => await window.app.extensionManager.command.execute('{TOGGLE}')"


def test_the_verdict_and_the_size_are_among_an_apps_results(page: ComfyPage, renderer: str) -> None:
    if not page.page.evaluate(SHOWS_TEXTS):
        pytest.skip("this page's app mode shows images alone")
    page.drop(quick_start(f"app-{renderer}"))
    page.set("CheckpointLoaderSimple", {"ckpt_name": TINY_CHECKPOINT.name})
    page.page.wait_for_timeout(2500)
    page.page.evaluate(SWITCH)
    page.page.wait_for_timeout(1500)
    try:
        page.page.keyboard.press("Escape")  # a welcome
        assert page.run() == "success"
        results = page.page.get_by_test_id("linear-history-item")
        results.first.wait_for(timeout=30_000)
        texts = results.filter(has_not=page.page.get_by_test_id("linear-image-output"))
        assert (results.count(), texts.count()) == (5, 2), "three images, the copy's verdict and that of the images"
        said = []
        for number in range(2):
            texts.nth(number).click()
            shown = page.page.get_by_role("article").filter(has_text="Practically the same image")
            shown.wait_for(timeout=10_000)
            page.page.wait_for_timeout(500)
            said.append(shown.inner_text())
        seen, expected = sorted(said, key=lambda text: "expected" in text)
        assert seen.startswith("Practically the same image (SSIM 0.9")
        assert expected.startswith("Practically the same image expected") and " MB instead of " in expected
        assert " MB, " in expected.split("\n")[1], "the size in full"
    finally:
        page.page.evaluate(SWITCH)
        page.page.wait_for_timeout(1000)
