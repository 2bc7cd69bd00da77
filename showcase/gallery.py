"""Every example workflow as it is first seen, to be looked at: both node renderers, dark and light, two languages.

    python -m showcase.gallery --comfyui DIR      # browser_output/gallery/, six minutes

The quick start is also shown after a run, and after a refresh and another run. Nothing here is kept with the project.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.support.examples import EXAMPLES, QUICK_START
from tests.support.page import ComfyPage, chromium
from tests.support.server import REPOSITORY, ComfyServer

from .screenshots import small_and_fast

OUTPUT = REPOSITORY / "browser_output" / "gallery"
_SETTLED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--frontend", type=Path, help="the static folder of another page than this ComfyUI's own")
    args = parser.parse_args()
    arguments = ("--front-end-root", str(args.frontend)) if args.frontend else ()
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyServer(args.comfyui, Path(base), arguments) as server,
        chromium() as browser,
    ):
        for renderer, palette, language in itertools.product(("canvas", "vue"), ("dark", "light"), ("en", "ja")):
            photograph(server, browser, renderer, palette, language)


def photograph(server: ComfyServer, browser: Browser, renderer: str, palette: str, language: str) -> None:
    """All workflows in one of the page's moods."""
    settings = {
        "Comfy.VueNodes.Enabled": renderer == "vue", "Comfy.ColorPalette": palette, "Comfy.Locale": language,
    }  # fmt: skip
    mood = f"{renderer}_{palette}_{language}"
    with ComfyPage(server, browser, 1920, 1080, settings) as page:
        for path in EXAMPLES:
            page.clear()
            page.drop(path)
            page.page.wait_for_timeout(_SETTLED)
            page.screenshot(OUTPUT / f"{path.stem}_{mood}.png")
        if (palette, language) == ("dark", "en"):
            after_a_run(page, renderer)
        if page.errors:
            raise RuntimeError(page.errors)
    print(mood, flush=True)


def after_a_run(page: ComfyPage, renderer: str) -> None:
    """The quick start with what it tells."""
    page.clear()
    page.drop(QUICK_START)
    page.page.wait_for_timeout(_SETTLED)
    small_and_fast(page, "fox face")
    for moment in ("run", "refreshed"):
        if page.run() != "success":
            raise RuntimeError("the workflow did not end well")
        page.screenshot(OUTPUT / f"{QUICK_START.stem}_{renderer}_{moment}.png")
        page.page.wait_for_timeout(_SETTLED)
        page.open()
        page.page.wait_for_function("() => window.app.graph._nodes.length > 10", timeout=30_000)


if __name__ == "__main__":
    main()
