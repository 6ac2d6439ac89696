"""Plots of segmentation: masks drawn over photos, beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vpt.data.decode import BadImage, read
from vpt.data.segmentation.dataset import MaskRecord
from vpt.metrics.detection_plots import enlarged
from vpt.utils import fonts
from vpt.utils.image_grid import scaled

GROUND = "background"  # the class of this name is not drawn
_SIDE = 280  # pixels of a photo in a grid


def palette(count: int) -> np.ndarray:
    """Colours (count, 3) uint8 of classes, those of Pascal VOC's masks; value 0 is black.

    >>> palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    values = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (values >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def colours_of(classes: Sequence[str]) -> np.ndarray:
    """Colours (K, 3) uint8 of classes in overlays: `palette` from its second colour on, so that none is black."""
    return palette(len(classes) + 1)[1:]


def overlay(pixels: np.ndarray, mask: np.ndarray, classes: Sequence[str], strength: float = 0.55) -> np.ndarray:
    """A mask (H, W) of class indices drawn over a photo (H, W, 3) uint8; other values and the background are left out.

    >>> overlay(np.zeros((1, 2, 3), np.uint8), np.array([[0, 255]]), ["sky"], strength=1)[0].tolist()
    [[128, 0, 0], [0, 0, 0]]
    """
    shown = np.zeros(256, np.float32)
    shown[: len(classes)] = [0.0 if name == GROUND else strength for name in classes]
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = colours_of(classes)
    mixed = np.array(pixels)
    for top in range(0, len(mixed), 256):  # in strips, which bounds the memory
        rows = slice(top, top + 256)
        part = shown[mask[rows]][..., None]
        mixed[rows] = (pixels[rows] * (1 - part) + table[mask[rows]] * part).round().astype(np.uint8)
    return mixed


def with_legend(pixels: np.ndarray, labels: Sequence[int], classes: Sequence[str]) -> np.ndarray:
    """A photo with a white strip below it that names the classes of these indices by their colours."""
    height, width = pixels.shape[:2]
    size = max(12, min(height, width) // 28)
    line, font = round(1.5 * size), fonts.font(size)
    colours = colours_of(classes)
    places, left, row = [], 0, 0
    for label in labels:
        wide = round(font.getlength(classes[label])) + 2 * line
        if left and left + wide > width:
            left, row = 0, row + 1
        places.append((left, height + row * line))
        left += wide
    picture = Image.new("RGB", (width, height + (row + 1) * line if labels else height), "white")
    picture.paste(Image.fromarray(pixels))
    pen = ImageDraw.Draw(picture)
    for label, (left, top) in zip(labels, places, strict=True):
        fill = "white" if classes[label] == GROUND else tuple(colours[label].tolist())
        pen.rectangle((left + 4, top + 4, left + line - 4, top + line - 4), fill=fill, outline="#666666")
        pen.text((left + line + 2, top + line / 2), classes[label], fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def drawn(pixels: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A mask over a photo with its legend; a small photo is enlarged."""
    larger, times = enlarged(pixels)
    labels = [label for label in np.unique(mask).tolist() if label < len(classes)]
    return with_legend(overlay(larger, mask.repeat(times, 0).repeat(times, 1), classes), labels, classes)


def pairs(
    records: Sequence[MaskRecord], predicted: Sequence[np.ndarray], classes: Sequence[str], max_pixels: int
) -> np.ndarray:
    """Rows of photo, true and predicted mask; pixels (H, W, 3) uint8."""
    rows = []
    for record, mask in zip(records, predicted, strict=True):
        try:
            pixels = read(record, max_pixels).pixels
        except BadImage:
            continue
        truth = record.read_mask((pixels.shape[1], pixels.shape[0]))
        small, _ = scaled(pixels, _SIDE, Image.Resampling.LANCZOS)
        size = (small.shape[1], small.shape[0])
        tile = np.full((size[1] + 8, 3 * (_SIDE + 8), 3), 255, np.uint8)
        for number, one in enumerate((None, truth, mask)):
            shown = small
            if one is not None:
                shown = overlay(small, np.asarray(Image.fromarray(one).resize(size, Image.Resampling.NEAREST)), classes)
            left = number * (_SIDE + 8)
            tile[: size[1], left : left + size[0]] = shown
        rows.append(tile)
    grid = np.concatenate(rows) if rows else np.full((8, 3 * (_SIDE + 8), 3), 255, np.uint8)
    return with_legend(grid, range(min(len(classes), 40)), classes)
