"""Every node has help, tooltips and translations, as the page gets them from the server.

English is what the nodes themselves say; its file has only labels that read better than names of inputs.
"""

import json
from typing import Any

import pytest

from tests.support.server import REPOSITORY, ComfyServer

TRANSLATIONS = ("ja", "zh")


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


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_text_is_translated(server: ComfyServer, nodes: dict[str, Any], language: str) -> None:
    served = server.get("/i18n")[language]["nodeDefs"]
    locale = json.loads((REPOSITORY / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {name: served[name] for name in nodes} == locale
    for name, info in nodes.items():
        texts = locale[name]
        assert texts.keys() == {"display_name", "description", "inputs", "outputs"} and texts["display_name"], name
        assert texts["inputs"].keys() == inputs(info).keys(), name
        assert list(texts["outputs"]) == [str(number) for number in range(len(info["output"]))], name
        tooltips = {key: spec[1]["tooltip"] for key, spec in inputs(info).items()}
        tooltips |= {str(number): text for number, text in enumerate(info["output_tooltips"])}
        for key, socket in (texts["inputs"] | texts["outputs"]).items():
            assert socket["name"] and socket["tooltip"], f"{name}.{key}"
            assert socket["tooltip"] != tooltips[key], f"{name}.{key} is not translated"
        assert texts["description"] and texts["description"] != info["description"], name


def test_no_language_is_forgotten(server: ComfyServer) -> None:
    assert sorted(path.name for path in (REPOSITORY / "locales").iterdir()) == sorted(("en", *TRANSLATIONS))


def test_english_has_labels_for_names_of_several_words_and_repeats_nothing(
    server: ComfyServer, nodes: dict[str, Any]
) -> None:
    locale = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    served = server.get("/i18n")["en"]["nodeDefs"]
    assert {name: served[name] for name in locale} == locale
    for name, info in nodes.items():
        labels = locale.get(name, {"inputs": {}})
        assert labels.keys() == {"inputs"} and labels["inputs"].keys() <= inputs(info).keys(), name
        assert {key for key in inputs(info) if "_" in key} - {"fp8_matmul"} <= labels["inputs"].keys(), name
        for key, label in labels["inputs"].items():
            assert label.keys() == {"name"} and label["name"] != key and "_" not in label["name"], (name, key)


def test_the_search_finds_nodes_by_what_people_look_for(server: ComfyServer, nodes: dict[str, Any]) -> None:
    words = {name: set(info.get("search_aliases") or ()) for name, info in nodes.items()}
    if "search_aliases" not in server.get("/object_info")["KSampler"]:
        assert not any(words.values())  # this ComfyUI has no such words, and a schema with them would not load
        return
    looked_for = {"fp8", "int8", "8 bit", "4 bit", "compress", "smaller", "vram", "quantize"}
    assert looked_for <= words["HSWQQuantize"]
    assert {"fp8", "int8"} <= words["HSWQLoader"] & words["HSWQDiffusionModelLoader"]


def inputs(info: dict[str, Any]) -> dict[str, Any]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}
