"""The loaders' nodes: the switch of older workflows moves into ``compute``, and is not shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.examples import DAILY_USE
from tests.support.page import ComfyPage

pytestmark = pytest.mark.browser


def test_an_older_workflow_is_read_and_the_old_switch_is_not_shown(
    page: ComfyPage, renderer: str, tmp_path: Path
) -> None:
    workflow = json.loads(DAILY_USE.read_text(encoding="utf-8"))
    loader = next(node for node in workflow["nodes"] if node["type"] == "HSWQLoader")
    loader["widgets_values"] = ["older.safetensors", True]
    loader["inputs"] = [entry for entry in loader["inputs"] if entry["name"] != "compute"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(workflow), encoding="utf-8")
    page.drop(older)
    page.page.wait_for_function(
        "() => window.app.graph._nodes.some(n => n.type === 'HSWQLoader'"
        " && n.widgets.find(w => w.name === 'compute').value === 'fast')",
        timeout=10_000,
    )
    assert page.value("HSWQLoader", "fp8_matmul") is False
    page.look_at(-60, -60, 1.2)
    if renderer == "vue":
        node = page.page.locator(".lg-node", has_text="compute").first
        assert "fp8_matmul" not in node.inner_text()
