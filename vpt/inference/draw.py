"""Results of prediction drawn on photos: boxes, or a strip with the most confident classes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vpt.inference.results import Classification, Detections
from vpt.metrics.detection_plots import draw_boxes, enlarged


def drawn(pixels: np.ndarray, found: Classification | Detections) -> np.ndarray:
    """Draw a result on its photo (H, W, 3) uint8; small photos are enlarged. Returns a new array.

    >>> drawn(np.zeros((8, 600, 3), np.uint8), Classification("a.jpg", ("cat", "dog"), (0.9, 0.1))).shape[1]
    600
    """
    pixels, times = enlarged(pixels)
    if isinstance(found, Classification):
        return _with_strip(pixels, found)
    captions = [f"{label} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
    return draw_boxes(pixels, found.boxes * times, found.class_ids.tolist(), captions)


def file_name(number: int, name: str) -> str:
    """Name of the picture of an image, which is called by its path or URL.

    >>> file_name(3, "photos/cat.jpg"), file_name(1, "https://example.org/cat.jpg?size=9")
    ('0003-cat.png', '0001-cat.png')
    """
    path = urlsplit(name).path if name.startswith(("http://", "https://")) else name
    return f"{number:04d}-{Path(path).stem or 'image'}.png"


def _with_strip(pixels: np.ndarray, found: Classification) -> np.ndarray:
    """The photo with a white strip below it: a bar, the name and the score of each class; predicted ones in black."""
    height, width = pixels.shape[:2]
    size = max(12, min(height, width) // 24)
    line = round(1.6 * size)
    picture = Image.new("RGB", (width, height + line * len(found.labels)), "white")
    picture.paste(Image.fromarray(pixels))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for number, (label, score) in enumerate(zip(found.labels, found.scores.tolist(), strict=True)):
        top = height + number * line
        pen.rectangle((0, top + 1, width * score, top + line - 2), fill="#CFE3F2")
        ink = "black" if label in found.holding else "#666666"
        pen.text((size // 2, top + line / 2), f"{score:.2f}  {label}", fill=ink, font=font, anchor="lm")
    return np.asarray(picture)
