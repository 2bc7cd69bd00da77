"""The pictures on the page's template cards: a node that shows what an example is for, bright, and one sentence.

The page has no room for a sentence of ours beside the picture.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tests.support import examples
from tests.support.page import ComfyPage

_SIZE, _PICTURE, _MARGIN = (640, 560), (600, 420), 20
_LETTERS, _LINE = 31, 38
_SHOWN = {
    examples.QUICK_START: (("HSWQCompare", ""), "A copy in 8 bits, the same image with it, and a verdict"),
    examples.DAILY_USE: (("HSWQLoader", ""), "Make images with a copy, and a LoRA if you like"),
    examples.FULL_RECIPE: (
        ("HSWQProve", ""),
        "Every layer measured, the copy proved, a card to publish it",
    ),
    examples.STOCK_LOADERS: (("HSWQQuantize", "For every FP8 loader: V1"), "V1 and comfy, for people without HSWQ"),
    examples.MERGE: (("PreviewImage", ""), "Two checkpoints and a LoRA become one copy in 8 bits"),
    examples.COMPARE: (("HSWQCompare", "FP16 | V1"), "Your prompt in FP16, in V1 and in V2"),
}


def save_thumbnail(page: ComfyPage, path: Path) -> None:
    """Of an example that has run on the page, beside it."""
    (kind, title), sentence = _SHOWN[path]
    page.colour("light")
    box = page.frame_node(kind, title=title)
    node = Image.open(io.BytesIO(page.page.screenshot(clip=box))).convert("RGB")
    page.colour("dark")
    card = Image.new("RGB", _SIZE, "white")
    picture = ImageOps.contain(node, _PICTURE, Image.Resampling.LANCZOS)
    card.paste(picture, ((_SIZE[0] - picture.width) // 2, _MARGIN))
    draw, font = ImageDraw.Draw(card), ImageFont.load_default(_LINE)
    for number, line in enumerate(textwrap.wrap(sentence, _LETTERS)):
        y = _PICTURE[1] + _MARGIN + number * (_LINE + 8)
        draw.text((_SIZE[0] // 2, y), line, fill="black", font=font, anchor="ma")
    card.save(path.with_suffix(".jpg"), quality=88)
