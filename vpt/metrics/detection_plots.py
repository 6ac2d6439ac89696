"""Plots of detection: boxes on photos, predictions and ground truth, precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from vpt.data.decode import BadImage, read
from vpt.data.detection.dataset import BoxRecord
from vpt.metrics.best_score import DEFAULT
from vpt.utils import fonts
from vpt.utils.image_grid import scaled
from vpt.utils.plotting import BLUE, GREY, ORANGE, own_style, save

# Distinguishable for colour-blind readers too (Okabe and Ito); classes use them in turn.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
LEGIBLE = 512  # pixels of the longer side at which captions are legible


def uncovered(places: Sequence[tuple[float, float, float, float]]) -> list[bool]:
    """Which captions to draw: in order, those that overlap no caption drawn before.

    Args:
        places: x1, y1, x2, y2 of each caption.

    >>> uncovered([(0, 0, 9, 9), (5, 5, 14, 14), (10, 10, 19, 19)])
    [True, False, True]
    """
    shown: list[tuple[float, float, float, float]] = []
    found = []
    for x1, y1, x2, y2 in places:
        found.append(all(x1 >= right or x2 <= left or y1 >= foot or y2 <= head for left, head, right, foot in shown))
        if found[-1]:
            shown.append((x1, y1, x2, y2))
    return found


def draw_boxes(
    pixels: np.ndarray, boxes: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[int], captions: Sequence[str]
) -> np.ndarray:
    """Draw boxes x1, y1, x2, y2 and captions on a photo (H, W, 3) uint8; returns a new array.

    The first boxes are on top; a caption that would cover one of theirs is left out.

    >>> draw_boxes(np.zeros((20, 20, 3), np.uint8), [[2, 2, 15, 15]], [0], ["cat 0.9"]).shape
    (20, 20, 3)
    """
    image = Image.fromarray(pixels).convert("RGB")
    pen = ImageDraw.Draw(image)
    line = max(1, round(min(image.size) / 150))
    font = fonts.font(max(9, round(min(image.size) / 28)))
    colours = [COLOURS[label % len(COLOURS)] for label in labels]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        x1, y1, x2, y2 = (float(value) for value in box)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
    places = [_caption_place(pen, font, box, caption, line) for box, caption in zip(boxes, captions, strict=True)]
    for place, caption, colour, free in zip(places, captions, colours, uncovered(places), strict=True):
        if caption and free:
            ink = "black" if _brightness(colour) > 0.4 else "white"
            pen.rectangle(place, fill=colour)
            pen.text((place[0] + line, place[1] + line), caption, fill=ink, font=font, anchor="lt")
    return np.asarray(image)


def enlarged(pixels: np.ndarray, least: int = LEGIBLE) -> tuple[np.ndarray, int]:
    """Enlarge a photo (H, W, 3) by a whole number, so that its longer side has at least `least` pixels and captions are
    legible. Returns the photo and the number.

    >>> shown, times = enlarged(np.zeros((100, 200, 3), np.uint8))
    >>> shown.shape, times
    ((300, 600, 3), 3)
    """
    high, wide = pixels.shape[:2]
    times = -(-least // max(high, wide))
    if times == 1:
        return pixels, 1
    return np.asarray(Image.fromarray(pixels).resize((wide * times, high * times), Image.Resampling.BICUBIC)), times


def _caption_place(
    pen: ImageDraw.ImageDraw, font: Any, box: Sequence[float], caption: str, line: int
) -> tuple[float, float, float, float]:
    """Above the upper left corner of a box, or below it at the upper edge of the image; never beyond the right edge."""
    left, head, right, foot = pen.textbbox((0, 0), caption, font=font, anchor="lt")
    wide, high = right - left + 2 * line, foot - head + 2 * line
    x = max(0.0, min(float(box[0]), pen.im.size[0] - wide))
    y = float(box[1]) - high if box[1] >= high else float(box[1])
    return x, y, x + wide, y + high


def _brightness(colour: str) -> float:
    """Relative luminance of a colour (WCAG 2), from 0 to 1."""
    parts = [value / 255 for value in ImageColor.getrgb(colour)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def pairs(
    records: Sequence[BoxRecord],
    predicted: Sequence[Mapping[str, Tensor]],
    classes: Sequence[str],
    max_pixels: int,
    side: int = 280,
    least: float = DEFAULT,
) -> np.ndarray:
    """Pairs of photos, with true boxes on the left and predicted boxes of at least a score on the right; two pairs per
    row. Pixels (H, W, 3) uint8."""
    tiles = []
    for record, found in zip(records, predicted, strict=True):
        try:
            pixels = read(record, max_pixels).pixels
        except BadImage:
            continue
        names = [classes[label] for label in record.labels]
        sure = found["scores"] >= least
        labels = found["labels"][sure].tolist()
        captions = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, found["scores"][sure].tolist())]
        small, scale = scaled(pixels, side, Image.Resampling.LANCZOS)
        truth = draw_boxes(small, np.asarray(record.boxes).reshape(-1, 4) * scale, record.labels, names)
        guess = draw_boxes(small, found["boxes"][sure].numpy() * scale, labels, captions)
        tile = np.full((side, 2 * side + 8, 3), 255, np.uint8)
        for number, image in enumerate((truth, guess)):
            left = number * (side + 8)
            tile[: image.shape[0], left : left + image.shape[1]] = image
        tiles.append(tile)
    if not tiles:
        tiles = [np.full((side, 2 * side + 8, 3), 255, np.uint8)]
    if len(tiles) % 2:
        tiles.append(np.full_like(tiles[0], 255))
    gap = np.full((side, 24, 3), 255, np.uint8)
    rows = [np.concatenate([tiles[at], gap, tiles[at + 1]], axis=1) for at in range(0, len(tiles), 2)]
    head = Image.new("RGB", (rows[0].shape[1], 26), "white")
    pen = ImageDraw.Draw(head)
    font = fonts.font(16)
    for number, text in enumerate(["truth", "predicted"] * 2):
        left = (number % 2) * (side + 8) + (number // 2) * (2 * side + 8 + 24)
        pen.text((left + 4, 4), text, fill="black", font=font)
    spaced = [np.concatenate([row, np.full((8, row.shape[1], 3), 255, np.uint8)]) for row in rows]
    return np.concatenate([np.asarray(head), *spaced])


@own_style
def precision_png(curves: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Precision-recall curves at two overlaps and averaged over overlaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("0.50", BLUE), ("0.75", ORANGE), ("mean", GREY)):
        values = curves[name]
        label = "mean over overlaps" if name == "mean" else f"overlap {name}"
        axes.plot(np.linspace(0, 1, len(values)), values, color=colour, label=f"{label}: {np.mean(values):.3f}")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return save(figure, path)
