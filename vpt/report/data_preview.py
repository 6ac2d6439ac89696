"""A picture of a data set: a grid of its images with their labels, boxes or masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.decode import BadImage, read
from vpt.data.detection.dataset import BoxRecord
from vpt.data.segmentation.dataset import MaskRecord
from vpt.metrics.detection_plots import draw_boxes
from vpt.metrics.segmentation_plots import overlay
from vpt.utils.image_grid import COLUMNS, grid, scaled, tile
from vpt.utils.plotting import picture_png

ROWS = 4


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
    return picture_png(grid(tiles), path)


def _in_turn(data: LabelledData) -> Iterable[tuple[str, Record]]:
    """Images by class in turn, those of training first; each once."""
    by_class: dict[int, list[tuple[str, Record]]] = {label: [] for label in [*range(len(data.classes)), -1]}
    for split in SPLITS:
        for record in data.split(split):
            if not record.problem():
                by_class[record.labels[0] if record.labels else -1].append((split, record))
    return (one for turn in zip_longest(*by_class.values()) for one in turn if one is not None)


def _tile(pixels: np.ndarray, record: Record, split: str, classes: Sequence[str]) -> np.ndarray:
    """An image with its boxes, and its labels and the name of its file below."""
    small, scale = scaled(pixels)
    if isinstance(record, BoxRecord):
        boxes = np.asarray(record.boxes, dtype=float).reshape(-1, 4) * scale
        small = draw_boxes(small, boxes, record.labels, [classes[label] for label in record.labels])
    elif isinstance(record, MaskRecord):
        mask = record.read_mask((pixels.shape[1], pixels.shape[0]))
        size = (small.shape[1], small.shape[0])
        small = overlay(small, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), classes)
    return tile(small, [record.caption(classes), f"{split}: {record.name}"])
