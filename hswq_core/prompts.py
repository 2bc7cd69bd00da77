"""Prompts: one a line, from a text or a file, or a varied list of our own."""

from __future__ import annotations

from pathlib import Path

from .errors import PlanError

VARIED = (
    "portrait of an old fisherman with a grey beard, soft window light, photograph",
    "a red fox standing in fresh snow at dawn, photograph",
    "wide mountain valley with a winding river, evening clouds, landscape photograph",
    "busy market street in the rain, umbrellas, neon reflections, night",
    "a bowl of ramen with egg and spring onions, top view, food photograph",
    "anime girl with short blue hair in a school uniform, cherry blossoms, cel shading",
    "a knight in worn armour facing a dragon, dramatic sky, fantasy oil painting",
    "isometric cutaway of a small cozy house, pastel colours, 3d render",
    "macro photograph of a dew drop on a leaf, shallow depth of field",
    "an astronaut floating above the earth, sun behind the horizon",
    "watercolour of a fishing village with white houses and blue boats",
    "black and white street photograph of a man waiting under a clock",
    "two children building a sandcastle on the beach, bright midday sun",
    "a steam locomotive crossing a stone viaduct, autumn forest",
    "flat vector poster of a city skyline with a large orange sun",
    "close-up of a wrist watch with visible gears, studio light, product photograph",
    "a tabby cat asleep on a pile of books, warm lamp light",
    "abstract composition of circles and lines in red, yellow and blue",
    "modern glass house in a pine forest, architecture photograph, blue hour",
    "manga panel of a swordsman mid-leap, speed lines, ink",
    "a ballerina on an empty stage, single spotlight, long shadow",
    "underwater reef with a sea turtle and many small fish, sun rays",
    "pixel art of a wizard's tower on a floating island",
    "crowd at an outdoor concert seen from the stage, confetti, coloured lights",
    "pencil sketch of a sleeping dog, loose lines on white paper",
    "a desert road leading to distant mesas under a full moon",
    "bouquet of peonies in a glass vase, dutch still life, dark background",
    "a robot tending a greenhouse, detailed science fiction concept art",
    "elderly couple dancing in a kitchen, candid photograph, film grain",
    "vintage sports car on a coastal road, motion blur, late afternoon",
    "intricate paper cut of a forest with deer, layered depth, backlit",
    "full-body picture of a woman in a green evening dress on marble stairs",
)


def prompts_in(text: str, where: str | Path) -> list[str]:
    """The lines that are not empty. Errors: PlanError when there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise PlanError("the file of prompts is empty", where=where, remedy="Write one prompt a line")
    return lines


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file. Errors: PlanError when it cannot be read or holds none."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise PlanError("the prompts cannot be read", where=path, remedy="Give a text file") from error
    return prompts_in(text, path)
