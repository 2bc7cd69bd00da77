"""Every node has help, tooltips and three locales, as the page gets them from the server."""

import json
from typing import Any

import pytest

from tests.support.server import REPOSITORY, ComfyServer

LANGUAGES = ("en", "ja", "zh")


@pytest.fixture(scope="module")
def nodes(server: ComfyServer) -> dict[str, Any]:
    return {name: info for name, info in server.get("/object_info").items() if name.startswith("HSWQ")}


def test_every_node_has_a_help_page(nodes: dict[str, Any]) -> None:
    pages = {path.stem for path in (REPOSITORY / "web" / "docs").glob("*.md")}
    assert pages == set(nodes)


def test_every_socket_has_a_tooltip(nodes: dict[str, Any]) -> None:
    for name, info in nodes.items():
        assert info["description"], name
        assert all(spec[1].get("tooltip") for spec in inputs(info).values()), name
        assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"]), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_in_every_language(server: ComfyServer, nodes: dict[str, Any], language: str) -> None:
    served = server.get("/i18n")[language]["nodeDefs"]
    locale = json.loads((REPOSITORY / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {name: served[name] for name in nodes} == locale
    english = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    for name, info in nodes.items():
        texts = locale[name]
        assert texts["inputs"].keys() == inputs(info).keys(), name
        assert list(texts["outputs"]) == [str(number) for number in range(len(info["output"]))], name
        sockets = (*texts["inputs"].values(), *texts["outputs"].values())
        assert all(socket["name"] and socket["tooltip"] for socket in sockets), name
        if language == "en":
            assert texts["display_name"] == info["display_name"] and texts["description"] == info["description"]
            assert all(texts["inputs"][key]["tooltip"] == spec[1]["tooltip"] for key, spec in inputs(info).items())
        else:
            assert texts["description"] != english[name]["description"]


def inputs(info: dict[str, Any]) -> dict[str, Any]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}
