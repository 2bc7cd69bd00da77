"""The model card for Hugging Face and a description for Civitai, from a file's facts and its author's words."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..formats import FORMATS
from .facts import Facts
from .shown_proof import PAIRS_IMAGE, ShownProof


@dataclass(frozen=True)
class About:
    """What a file cannot say of itself.

    Attributes:
        title: empty for the file's own.
        licence: an identifier of Hugging Face's list, as ``openrail++``; empty for the one that the file has.
        base_model: the original's repository, as ``stabilityai/stable-diffusion-xl-base-1.0``.
        trigger: words that call the model's subject up.
    """

    title: str = ""
    author: str = ""
    licence: str = ""
    base_model: str = ""
    trigger: str = ""


def model_card(facts: Facts, about: About, hashes: Mapping[str, str], proof: ShownProof | None = None) -> str:
    """README.md with its header of YAML."""
    title = about.title or facts.title
    parts = [
        _front_matter(facts, about, title),
        f"# {title}",
        _sentence(facts, about),
        *(_proof(proof) if proof else ()),
        f"## How to load it\n\n{FORMATS[facts.mode].how_to_load}",
        f"Trigger words: `{about.trigger}`" if about.trigger else "",
        f"## How it was made\n\n{_table(facts.lines)}",
        f"## Hashes of `{facts.file}`\n\n{_table(list(hashes.items()))}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def missing_in(facts: Facts, about: About, proof: ShownProof | None = None) -> list[str]:
    """What should be said before the folder is uploaded, and is not."""
    asked = {
        "no licence is said: give that of the original": about.licence or facts.licence[0],
        "no base model is said: give the original's repository, as owner/name": about.base_model,
        "no author is said: give the original's": about.author,
        "there is no proof: connect HSWQ Prove": proof,
    }
    return [text for text, value in asked.items() if not value]


def civitai_description(facts: Facts, about: About, proof: ShownProof | None = None) -> str:
    """Simple HTML, as Civitai's editor takes it."""

    def paragraph(text: str) -> str:
        return f"<p>{html.escape(text.replace('*', '').replace('`', ''))}</p>"

    lines = [f"<h2>{html.escape(about.title or facts.title)}</h2>", paragraph(_sentence(facts, about))]
    lines += [paragraph(FORMATS[facts.mode].how_to_load)]
    lines += [paragraph(f"Trigger words: {about.trigger}")] if about.trigger else []
    shown = [*(proof.rows if proof else ()), *facts.lines]
    lines += [paragraph(proof.verdict)] if proof else []
    rows = (f"<li>{html.escape(name)}: {html.escape(value)}</li>" for name, value in shown)
    lines += ["<ul>", *rows, "</ul>"]
    return "\n".join(lines) + "\n"


def _proof(proof: ShownProof) -> list[str]:
    """The verdict, pairs of images, and figures."""
    page = "[proof.html](proof.html) has all pairs and how they were made." if "proof.html" in proof.files else ""
    image = (
        f"![original, quantized, and their amplified difference]({PAIRS_IMAGE})" if PAIRS_IMAGE in proof.files else ""
    )
    return ["## Is it as good?", proof.verdict, image if PAIRS_IMAGE in proof.files else "", _table(proof.rows), page]


def _sentence(facts: Facts, about: About) -> str:
    original = about.base_model or facts.base or "the original model"
    kind, bits = ("A smaller", facts.grid) if FORMATS[facts.mode].menu else ("An 8-bit", "8 bits")
    return (
        f"{kind} copy of {original}, quantized with HSWQ (Hybrid Sensitivity Weighted Quantization): "
        f"{facts.bytes / 1e9:,.2f} GB, {facts.bytes / facts.original_bytes:.0%} of 16 bits. {facts.quantized} layers "
        f"are in {bits}, {facts.kept} as they were."
    )


def _front_matter(facts: Facts, about: About, title: str) -> str:
    """JSON strings are YAML strings, whatever is in them."""
    tags = ["hswq", "comfyui", "quantized", *facts.grid.lower().split(" and "), facts.architecture]
    licence, own_words = (about.licence, "") if about.licence else facts.licence
    lines = [f"license: {json.dumps(licence)}"] if licence else []
    lines += [f"license_name: {json.dumps(own_words, ensure_ascii=False)}"] if own_words else []
    if about.base_model:
        lines += [f"base_model: {json.dumps(about.base_model)}", "base_model_relation: quantized"]
    if about.author:
        lines += [f"author: {json.dumps(about.author, ensure_ascii=False)}"]
    lines += ["pipeline_tag: text-to-image", f"model_name: {json.dumps(title, ensure_ascii=False)}", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in tags if tag != "unknown"]
    return "\n".join(["---", *lines, "---"])


def _table(rows: Sequence[tuple[str, str]]) -> str:
    clean = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in clean)])
