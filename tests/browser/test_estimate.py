"""The line under the chart of HSWQ Quantize: what the next run takes, also after a refresh and an undo."""

from __future__ import annotations

from tests.browser.test_page import QUICK_START, session_name, small
from tests.browser.test_recipe import CAPTURE, TRACKER
from tests.support.page import ComfyPage


def told(page: ComfyPage, begin: str = "") -> str:
    """What is told, once it begins so: the page draws a node that it made anew when it has the time."""
    page.page.wait_for_function(
        "(begin) => { const told = document.querySelector('.hswq-estimate')?.textContent;"
        " return told && told.startsWith(begin); }",
        arg=begin, timeout=15_000,
    )  # fmt: skip
    return page.texts("hswq-estimate")


def test_what_a_run_takes_is_told_once_there_is_a_session(page: ComfyPage, renderer: str) -> None:
    page.drop(QUICK_START)
    page.page.wait_for_timeout(1200)
    session_name(page, f"estimate-{renderer}")
    small(page)
    page.set("HSWQCalibrate", {"rows_per_layer": 64})
    page.set("HSWQQuantize", {"filename": f"estimate_{renderer}"})
    assert page.texts("hswq-estimate") == ""
    assert page.run() == "success"
    page.page.wait_for_function(
        "() => document.querySelector('.hswq-estimate')?.textContent.includes('rounding about')", timeout=15_000
    )
    first = told(page)
    size = int(page.page.locator(".hswq-size:visible").get_attribute("data-bytes") or 0)
    assert f"disk: {size / 1e6:.2f} MB of " in first and " free" in first and "RAM: " in first
    assert f"written: estimate_{renderer}.safetensors" in page.texts("hswq-verdict")

    # Undo makes the nodes anew.
    page.page.evaluate(CAPTURE)
    page.set("HSWQQuantize", {"keep_ratio": 0.5})
    page.page.evaluate(CAPTURE)
    page.page.wait_for_timeout(1500)  # until the page has kept it
    page.page.evaluate(f"async () => {TRACKER}.undo()")
    page.page.wait_for_timeout(1500)
    assert page.value("HSWQQuantize", "keep_ratio") == 0.25
    assert told(page, first.partition(" of ")[0])
    assert f"written: estimate_{renderer}.safetensors" in page.texts("hswq-verdict")

    # A refresh reads what the page has kept: newer ones keep what was undone with the next change.
    for ratio in (0.5, 0.25):
        page.set("HSWQQuantize", {"keep_ratio": ratio})
        page.page.evaluate(CAPTURE)
        page.page.wait_for_timeout(1500)
    page.open()
    page.page.wait_for_function("() => window.app.graph._nodes.length > 10", timeout=30_000)
    assert page.value("HSWQQuantize", "keep_ratio") == 0.25
    assert "rounding about" in told(page, first.partition(" of ")[0])
