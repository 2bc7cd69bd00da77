"""The quick start as an app: newer pages show its results without its nodes."""

from __future__ import annotations

import pytest

from tests.browser.test_first_minute import quick_start
from tests.support.page import ComfyPage

TOGGLE = "Comfy.ToggleLinear"
SHOWS_TEXTS = "() => window.__COMFYUI_FRONTEND_VERSION__.split('.').map(Number)[1] >= 49"  # 1.32 had images alone
SWITCH = f"async () => await window.app.extensionManager.command.execute('{TOGGLE}')"


def test_the_verdict_and_the_size_are_among_an_apps_results(page: ComfyPage, renderer: str) -> None:
    if not page.page.evaluate(SHOWS_TEXTS):
        pytest.skip("this page's app mode shows images alone")
    page.drop(quick_start(f"app-{renderer}"))
    page.page.wait_for_timeout(2500)
    page.page.evaluate(SWITCH)
    page.page.wait_for_timeout(1500)
    try:
        assert page.run() == "success"
        shown = page.page.get_by_text("Practically the same image")
        shown.first.wait_for(timeout=30_000)
        assert "MB instead of" in " ".join(page.page.get_by_role("article").all_inner_texts())
    finally:
        page.page.evaluate(SWITCH)
        page.page.wait_for_timeout(1000)
