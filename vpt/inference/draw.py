"""Drawing of classes below photos, and names of drawn files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw

from vpt.utils import fonts
from vpt.utils.file_names import cut


def file_name(number: int, name: str) -> str:
    """Name of the picture of an image, which is called by its path or URL.

    >>> file_name(3, "photos/cat.jpg"), file_name(1, "https://example.org/cat.jpg?size=9")
    ('0003-cat.png', '0001-cat.png')
    """
    path = urlsplit(name).path if name.startswith(("http://", "https://")) else name
    return f"{number:04d}-{cut(Path(path).stem) or 'image'}.png"


def with_strip(
    pixels: np.ndarray, labels: Sequence[str], scores: Sequence[float], predicted: Collection[str]
) -> np.ndarray:
    """The photo with a white strip below it: a bar, the name and the score of each class; predicted ones in black.

    >>> with_strip(np.zeros((8, 600, 3), np.uint8), ["cat", "dog"], [0.9, 0.1], {"cat"}).shape[1]
    600
    """
    parts = zip(labels, scores, strict=True)
    return with_lines(pixels, [(f"{score:.2f}  {label}", score, label in predicted) for label, score in parts])


def with_lines(pixels: np.ndarray, lines: Sequence[tuple[str, float, bool]]) -> np.ndarray:
    """The photo with a white strip below it; each line has a text, a bar from 0 to 1, and whether it is black.

    >>> with_lines(np.zeros((200, 600, 3), np.uint8), [("age 31", 0.0, True)]).shape
    (219, 600, 3)
    """
    height, width = pixels.shape[:2]
    size = max(12, min(height, width) // 24)
    line = round(1.6 * size)
    picture = Image.new("RGB", (width, height + line * len(lines)), "white")
    picture.paste(Image.fromarray(pixels))
    pen, font = ImageDraw.Draw(picture), fonts.font(size)
    for number, (text, bar, dark) in enumerate(lines):
        top = height + number * line
        if bar > 0:
            pen.rectangle((0, top + 1, width * bar, top + line - 2), fill="#CFE3F2")
        pen.text((size // 2, top + line / 2), text, fill="black" if dark else "#666666", font=font, anchor="lm")
    return np.asarray(picture)
