"""A picture of a data set: a grid of its images with their labels, boxes or masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.decode import BadImage, read
from vpt.data.detection.dataset import BoxRecord
from vpt.data.segmentation.dataset import MaskRecord
from vpt.metrics.detection_plots import draw_boxes
from vpt.metrics.segmentation_plots import overlay
from vpt.utils.plotting import picture_png

COLUMNS, ROWS, SIDE = 6, 4, 220  # of the grid; a tile's side in pixels
_MARGIN, _TEXT = 6, 14


def preview_png(data: LabelledData, max_pixels: int, path: Path) -> Path | None:
    """Write a grid of images that shows the classes in turn; None if no image can be read.

    Args:
        data: of any task; boxes and masks are drawn if it has any.
        max_pixels: larger images are left out.
        path: of the PNG file.
    """
    tiles: list[np.ndarray] = []
    for split, record in _in_turn(data):
        try:
            tiles.append(_tile(read(record, max_pixels).pixels, record, split, data.classes))
        except BadImage:
            continue
        if len(tiles) == COLUMNS * ROWS:
            break
    if not tiles:
        return None
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[at : at + COLUMNS], axis=1) for at in range(0, len(tiles), COLUMNS)]
    return picture_png(np.concatenate(rows), path)


def _in_turn(data: LabelledData) -> Iterable[tuple[str, Record]]:
    """Images by class in turn, those of training first; each once."""
    by_class: dict[int, list[tuple[str, Record]]] = {label: [] for label in [*range(len(data.classes)), -1]}
    for split in SPLITS:
        for record in data.split(split):
            if not record.problem():
                by_class[record.labels[0] if record.labels else -1].append((split, record))
    return (one for turn in zip_longest(*by_class.values()) for one in turn if one is not None)


def _tile(pixels: np.ndarray, record: Record, split: str, classes: Sequence[str]) -> np.ndarray:
    """An image in a white square, with its labels and the name of its file below."""
    scale = SIDE / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    labels = [classes[label] for label in dict.fromkeys(record.labels)]
    if isinstance(record, BoxRecord):
        boxes = np.asarray(record.boxes, dtype=float).reshape(-1, 4) * scale
        small = draw_boxes(small, boxes, record.labels, [classes[label] for label in record.labels])
    elif isinstance(record, MaskRecord):
        mask = record.read_mask((pixels.shape[1], pixels.shape[0]))
        small = overlay(small, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), classes)
    tile = Image.new("RGB", (SIDE + 2 * _MARGIN, SIDE + 2 * _MARGIN + 2 * (_TEXT + 4)), "white")
    tile.paste(Image.fromarray(small), (_MARGIN + (SIDE - size[0]) // 2, _MARGIN + (SIDE - size[1]) // 2))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(_TEXT)
    for line, (text, ink) in enumerate(
        [(", ".join(labels) or "no label", "black"), (f"{split}: {record.name}", "#666")]
    ):
        pen.text((_MARGIN, SIDE + _MARGIN + 3 + line * (_TEXT + 4)), _cut(pen, font, text), fill=ink, font=font)
    return np.asarray(tile)


def _cut(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> str:
    """The text, shortened in the middle so that it fits into a tile."""
    text = text[:200]
    while len(text) > 4 and pen.textlength(text, font=font) > SIDE:
        middle = len(text) // 2
        text = f"{text[: middle - 1].rstrip('.')}...{text[middle + 3 :].lstrip('.')}"
    return text
