"""The quick start as an app: newer pages show its results without its nodes."""

from __future__ import annotations

import pytest

from tests.browser.test_first_minute import quick_start
from tests.support.page import ComfyPage

TOGGLE = "Comfy.ToggleLinear"
HAS_APPS = f"() => window.app.extensionManager.command.commands.some((each) => each.id === '{TOGGLE}')"
SWITCH = f"async () => await window.app.extensionManager.command.execute('{TOGGLE}')"


def test_the_verdict_and_the_size_are_among_an_apps_results(page: ComfyPage, renderer: str) -> None:
    if not page.page.evaluate(HAS_APPS):
        pytest.skip("this page has no app mode")
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
