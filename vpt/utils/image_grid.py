"""A grid of images with lines of text below each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vpt.utils import fonts

COLUMNS, SIDE = 6, 220  # of a grid; side of a tile in pixels
_MARGIN, _TEXT = 6, 14
INKS = ("black", "#666")  # of the first line and of the others


def rgb_of(pixels: np.ndarray) -> np.ndarray:
    """An image (H, W, C) of any number of channels in three, to be shown: the first three, or all of fewer.

    >>> rgb_of(np.zeros((2, 2, 5), np.uint8)).shape, rgb_of(np.zeros((2, 2, 1), np.uint8)).shape
    ((2, 2, 3), (2, 2, 3))
    """
    last = pixels.shape[2] - 1
    return pixels if last == 2 else np.ascontiguousarray(pixels[..., [0, min(1, last), min(2, last)]])


def scaled(
    pixels: np.ndarray, side: int = SIDE, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> tuple[np.ndarray, float]:
    """An image (H, W, C) uint8 in three channels, resized so that its long side has `side` pixels, and the factor.

    >>> scaled(np.zeros((10, 20, 3), np.uint8), 40)[0].shape
    (20, 40, 3)
    """
    pixels, scale = rgb_of(pixels), side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, resample)), scale


def tile(pixels: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """An image of at most `SIDE` pixels in a white square, with lines of text below, shortened to fit."""
    height, width = pixels.shape[:2]
    square = Image.new("RGB", (SIDE + 2 * _MARGIN, SIDE + 2 * _MARGIN + len(lines) * (_TEXT + 4)), "white")
    square.paste(Image.fromarray(pixels), (_MARGIN + (SIDE - width) // 2, _MARGIN + (SIDE - height) // 2))
    pen, font = ImageDraw.Draw(square), fonts.font(_TEXT)
    for number, line in enumerate(lines):
        place = (_MARGIN, SIDE + _MARGIN + 3 + number * (_TEXT + 4))
        pen.text(place, _cut(pen, font, line), fill=INKS[min(number, 1)], font=font)
    return np.asarray(square)


def grid(tiles: Sequence[np.ndarray], columns: int = COLUMNS) -> np.ndarray:
    """Tiles of equal size, row by row."""
    tiles = [*tiles, *[np.full_like(tiles[0], 255)] * (-len(tiles) % columns)]
    return np.concatenate([np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)])


def _cut(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> str:
    """The text, shortened in the middle so that it fits into a tile."""
    text = text[:200]
    while len(text) > 4 and pen.textlength(text, font=font) > SIDE:
        middle = len(text) // 2
        text = f"{text[: middle - 1].rstrip('.')}...{text[middle + 3 :].lstrip('.')}"
    return text
