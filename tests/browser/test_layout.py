"""Every example workflow as it is first seen, on bright and dark pages: nothing hangs out, and all text can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.examples import DAILY_USE, EXAMPLES
from tests.support.page import ComfyPage

pytestmark = pytest.mark.browser
# Nodes that begin in a group and end outside, or whose own fields and views are higher than they are.
HANGING = """() => {
    const graph = window.app.graph, found = [];
    const heightOf = (node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        return element ? element.offsetHeight - 30 : node.size[1];
    };
    for (const node of graph._nodes) {
        const bottom = node.pos[1] + heightOf(node), right = node.pos[0] + node.size[0];
        for (const { pos, size, title } of graph._groups) {
            const isIn = node.pos[0] >= pos[0] && node.pos[1] >= pos[1]
                && node.pos[0] < pos[0] + size[0] && node.pos[1] < pos[1] + size[1];
            const out = Math.max(bottom - pos[1] - size[1], right - pos[0] - size[0]);
            if (isIn && out > 0) found.push(`${node.title} hangs ${out} out of ${title}`);
        }
        const isElement = document.querySelector(`[data-node-id="${node.id}"]`);
        const short = isElement ? 0 : node.computeSize()[1] - node.size[1];
        if (short > 1) found.push(`${node.title} is ${short} too low`);
    }
    return found;
}"""
# Groups whose title some node's lies on.
COVERED = """() => {
    const { _nodes: nodes, _groups: groups } = window.app.graph;
    return groups.filter(({ pos, size }) => nodes.some((node) => {
        const isOver = node.pos[0] < pos[0] + size[0] && node.pos[0] + node.size[0] > pos[0];
        return isOver && node.pos[1] - 30 < pos[1] + 34 && node.pos[1] > pos[1];
    })).map((group) => group.title);
}"""
# What can be scrolled inside something that can be scrolled in the same direction.
SCROLLED_TWICE = """() => {
    const scrolls = (element) => element.scrollHeight > element.clientHeight + 1
        && ["auto", "scroll"].includes(getComputedStyle(element).overflowY);
    const within = (element) => element && (scrolls(element) || within(element.parentElement));
    const found = [...document.querySelectorAll(".hswq, .hswq *, [data-node-id] *")];
    return found.filter((element) => scrolls(element) && within(element.parentElement)).map((e) => e.className);
}"""
# The contrast of each visible text of ours, as WCAG defines it, with what lies behind it; and of the notes, where
# nodes are elements of the page.
CONTRASTS = """() => {
    const channels = (colour) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = channels(getComputedStyle(at).backgroundColor);
            if (colour[3] > 0.9) return colour.slice(0, 3);
            if (at.dataset?.nodeId) break;
        }
        return channels(window.LiteGraph.NODE_DEFAULT_BGCOLOR).slice(0, 3);
    };
    const found = [];
    for (const element of document.querySelectorAll(".hswq *, .comfy-markdown-content *")) {
        const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
        if (!text || !element.checkVisibility()) continue;
        const style = getComputedStyle(element), back = behind(element);
        const fore = over(channels(style.color), back);
        const [high, low] = [luminance(fore), luminance(back)].sort((a, b) => b - a);
        found.push([text, (high + 0.05) / (low + 0.05)]);
    }
    return found;
}"""


@pytest.fixture(params=("dark", "light"))
def coloured(page: ComfyPage, request: pytest.FixtureRequest) -> Iterator[ComfyPage]:
    page.palette(request.param)
    yield page
    page.palette("dark")


def test_nothing_hangs_out_and_text_can_be_read(coloured: ComfyPage) -> None:
    for path in EXAMPLES:
        coloured.drop(path)
        coloured.page.wait_for_timeout(2000)
        assert coloured.page.evaluate(HANGING) == [], path.stem
        assert coloured.page.evaluate(COVERED) == [], path.stem
        assert coloured.page.evaluate(SCROLLED_TWICE) == [], path.stem
        contrasts = coloured.page.evaluate(CONTRASTS)
        assert contrasts
        assert not [each for each in contrasts if each[1] < 4.5], path.stem


def test_a_warning_can_be_read(coloured: ComfyPage) -> None:
    """That of a loader for a kind of file of which there is none."""
    path = DAILY_USE
    workflow = json.loads(path.read_text(encoding="utf-8"))
    (loader,) = (node for node in workflow["nodes"] if node["type"] == "HSWQLoader")
    loader["properties"]["hswq_kind"] = "comfy-mixed"
    coloured.drop(workflow)
    coloured.page.locator(".hswq .warn:visible").first.wait_for(timeout=10_000)
    contrasts = [contrast for text, contrast in coloured.page.evaluate(CONTRASTS) if "write one" in text]
    assert contrasts and min(contrasts) >= 4.5
