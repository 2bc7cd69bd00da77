"""ComfyUI's page in a real browser: a workflow dropped on it, run, and looked at.

The browser is the one that ``CHROMIUM`` names, or the system's ``chromium``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, FloatRect, sync_playwright

from tests.support.server import ComfyServer

_QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
}


def browser_path() -> str | None:
    """The browser's executable, or ``None`` if there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser. There can be one at a time."""
    executable = browser_path()
    if executable is None:
        raise RuntimeError("there is no Chromium; install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_QUIET))
        yield browser
        browser.close()


class ComfyPage:
    """The page of a running server, as a context manager. ``errors`` are the console's that name this pack.

    Args:
        settings: more of the page's own settings.
    """

    def __init__(
        self,
        server: ComfyServer,
        browser: Browser,
        width: int = 1960,
        height: int = 1120,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self._server, self._browser, self._size = server, browser, (width, height)
        self._settings = _SETTINGS | (settings or {})
        self.errors: list[str] = []

    def __enter__(self) -> ComfyPage:
        self._server.post("/settings", self._settings)
        width, height = self._size
        self.page = self._browser.new_page(viewport={"width": width, "height": height})
        self.page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._note(f"{error} {error.stack or ''}"))
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.page.close()

    def open(self) -> None:
        """Open the page, or refresh it."""
        self.page.goto(f"http://127.0.0.1:{self._server.port}/")
        self.page.wait_for_function("() => window.app?.graph && window.app.canvas", timeout=60_000)
        self.page.wait_for_timeout(3000)  # dialogs that greet newcomers come late
        for _ in range(2):
            self.page.keyboard.press("Escape")

    def language(self, code: str) -> None:
        """Choose the page's language, and open it anew."""
        self._server.post("/settings", {"Comfy.Locale": code})
        self.open()
        self.clear()

    def palette(self, name: str) -> None:
        """Choose the page's colours, "dark" or "light", and open it anew."""
        self._server.post("/settings", {"Comfy.ColorPalette": name})
        self.open()
        self.clear()

    def clear(self) -> None:
        """An empty canvas, and no errors noted."""
        self.page.evaluate("() => window.app.graph.clear()")
        self.errors.clear()

    def drop(self, workflow: Path | dict[str, Any]) -> None:
        """A workflow's file dragged from the desktop onto the canvas."""
        data = workflow if isinstance(workflow, dict) else json.loads(workflow.read_text(encoding="utf-8"))
        self.page.evaluate(
            """(text) => {
                const data = new DataTransfer();
                data.items.add(new File([text], "dropped.json", { type: "application/json" }));
                const canvas = document.querySelector("#graph-canvas") ?? document.querySelector("canvas");
                const at = { bubbles: true, cancelable: true, clientX: 800, clientY: 500 };
                canvas.dispatchEvent(new DragEvent("drop", { dataTransfer: data, ...at }));
            }""",
            json.dumps(data),
        )
        count = len(data["nodes"])
        self.page.wait_for_function("(count) => window.app.graph._nodes.length === count", arg=count, timeout=30_000)
        self.page.wait_for_timeout(1500)

    def node_types(self) -> dict[str, bool]:
        """The nodes on the canvas by type, and whether the page knows them."""
        return self.page.evaluate(
            "() => Object.fromEntries(window.app.graph._nodes.map((n) =>"
            " [n.type, !!n.constructor.nodeData || ['Note', 'MarkdownNote'].includes(n.type)]))"
        )

    def value(self, kind: str, widget: str, attribute: str = "value") -> Any:
        """What the page has of a field of the first node of a kind: its value, its label, ..."""
        return self.page.evaluate(
            "([kind, name, attribute]) => window.app.graph._nodes.find((n) => n.type === kind)"
            ".widgets.find((w) => w.name === name)[attribute]",
            [kind, widget, attribute],
        )

    def texts(self, view: str) -> str:
        """What all views of a class say, as far as they are shown."""
        return " | ".join(self.page.locator(f".{view}:visible").all_inner_texts())

    def set(self, kind: str, values: dict[str, Any], title: str = "") -> None:
        """Values typed into the fields of every node of a kind, or of those with a title."""
        self.page.evaluate(
            """([kind, values, title]) => {
                const chosen = (n) => n.type === kind && (!title || n.title === title);
                for (const node of window.app.graph._nodes.filter(chosen))
                    for (const [name, value] of Object.entries(values)) {
                        const widget = node.widgets.find((w) => w.name === name);
                        widget.value = value;
                        widget.callback?.(value);
                    }
            }""",
            [kind, values, title],
        )

    def set_in_order(self, kind: str, widget: str, values: list[Any]) -> None:
        """One value for each node of a kind, from left to right."""
        self.page.evaluate(
            """([kind, name, values]) => {
                const nodes = window.app.graph._nodes.filter((n) => n.type === kind);
                nodes.sort((a, b) => a.pos[0] - b.pos[0]);
                values.forEach((value, index) => (nodes[index].widgets.find((w) => w.name === name).value = value));
            }""",
            [kind, widget, values],
        )

    def queue(self) -> None:
        """What the Run button does."""
        self.page.evaluate("() => window.app.queuePrompt(0, 1)")

    def press_run(self) -> None:
        """A click on the Run button itself."""
        self.page.get_by_role("button", name="Run", exact=True).first.click()

    def run(self, timeout: float = 600, begin: Callable[[], None] | None = None) -> str:
        """Run the workflow to its end, and give the server's word for how it ended.

        Args: begin: presses the button, if not as ``queue`` does.
        """
        known = set(self._server.get("/history"))
        (begin or self.queue)()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            new = {k: v for k, v in self._server.get("/history").items() if k not in known}
            if new:
                self.page.wait_for_timeout(1500)
                return str(next(iter(new.values()))["status"]["status_str"])
            self.page.wait_for_timeout(500)
        raise TimeoutError("the workflow did not end")

    def look_at(self, x: float, y: float, scale: float) -> None:
        """Move the canvas so that the graph's point (x, y) is in the upper left corner."""
        self.page.evaluate(
            "([x, y, scale]) => { const c = window.app.canvas; c.ds.scale = scale; c.ds.offset = [-x, -y];"
            " c.setDirty(true, true); }",
            [x, y, scale],
        )
        self.page.wait_for_timeout(1200)

    def fit(self) -> FloatRect:
        """Move the canvas so that all of the workflow is seen between the page's own bars, and give its place."""
        left, top, right, bottom = self._bounds("true")
        width, height = self._size
        scale = min((width - 120) / (right - left), (height - 260) / (bottom - top), 1.0)
        self.look_at(left - 90 / scale, top - 180 / scale, scale)
        across, down = (right - left) * scale, (bottom - top) * scale
        return {"x": 80, "y": 170, "width": across + 20, "height": down + 20}

    def colour(self, palette: str) -> None:
        """Choose the page's colours, "dark" or "light", with all that it shows."""
        self.page.evaluate(
            "(palette) => window.app.extensionManager.setting.set('Comfy.ColorPalette', palette)", palette
        )

    def frame_node(self, kind: str, scale: float = 1.3, title: str = "") -> FloatRect:
        """Move the canvas to a node, of those with a title where one is given, and give its place on the page."""
        left, top, right, bottom = self._bounds("n.type === kind && (!title || n.title === title)", kind, title)
        self.look_at(left - 300 / scale, top - 220 / scale, scale)
        width, height = (right - left) * scale + 24, (bottom - top) * scale + 24
        return {"x": 300 - 12, "y": 220 - 12, "width": width, "height": height}

    def _bounds(self, which: str, kind: str = "", title: str = "") -> list[float]:
        """Left, top, right and bottom of nodes and groups on the canvas."""
        return self.page.evaluate(
            "([kind, title]) => { const nodes = window.app.graph._nodes.filter((n) => " + which + ");"
            " const groups = kind ? [] : window.app.graph._groups;"
            " const boxes = [...nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0],"
            " n.pos[1] + n.size[1]]),"
            " ...groups.map((g) => [g.pos[0], g.pos[1], g.pos[0] + g.size[0], g.pos[1] + g.size[1]])];"
            " const edge = (i, best) => best(...boxes.map((b) => b[i]));"
            " return [edge(0, Math.min), edge(1, Math.min), edge(2, Math.max), edge(3, Math.max)]; }",
            [kind, title],
        )

    def screenshot(self, path: Path, **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), **options)

    def _note(self, text: str) -> None:
        if "hswq" in text.lower():
            self.errors.append(text)
