"""Pictures of detection: boxes on photos, predictions beside truth, precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vpt.data.boxes.records import BoxRecord
from vpt.data.images import BadImage, read
from vpt.files import write_atomic
from vpt.plots import BLUE, GREY, ORANGE, picture_png

# Told apart by colour-blind readers too (Okabe and Ito); classes take them in turn.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
SHOWN = 0.3  # boxes below this score are not drawn


def draw_boxes(
    pixels: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[int], captions: Sequence[str]
) -> np.ndarray:
    """A photo (H, W, 3) uint8 with boxes x1, y1, x2, y2 and captions drawn on it, as a new array.

    >>> draw_boxes(np.zeros((20, 20, 3), np.uint8), [[2, 2, 15, 15]], [0], ["cat 0.9"]).shape
    (20, 20, 3)
    """
    picture = Image.fromarray(pixels).convert("RGB")
    pen = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 150))
    size = max(9, round(min(picture.size) / 28))
    font = ImageFont.load_default(size)
    for box, label, caption in zip(boxes, labels, captions, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        x1, y1, x2, y2 = (float(value) for value in box)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        if caption:
            place = pen.textbbox((x1 + line, y1), caption, font=font)
            lift = place[3] - place[1] + 2 * line
            top = y1 - lift if y1 >= lift else y1
            pen.rectangle((x1, top, x1 + place[2] - place[0] + 2 * line, top + lift), fill=colour)
            pen.text((x1 + line, top - (place[1] - y1) + line), caption, fill="white", font=font)
    return np.asarray(picture)


def grid_png(
    records: Sequence[BoxRecord],
    predicted: Sequence[Mapping[str, Tensor]],
    classes: Sequence[str],
    max_pixels: int,
    path: Path,
    side: int = 280,
) -> Path:
    """Photos in pairs, the true boxes on the left and the predicted ones on the right; two pairs a row."""
    tiles = []
    for record, found in zip(records, predicted, strict=True):
        try:
            pixels = read(record, max_pixels).pixels
        except BadImage:
            continue
        names = [classes[label] for label in record.labels]
        sure = found["scores"] >= SHOWN
        labels = found["labels"][sure].tolist()
        captions = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, found["scores"][sure].tolist())]
        scale = side / max(pixels.shape[:2])
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        truth = draw_boxes(small, np.asarray(record.boxes).reshape(-1, 4) * scale, record.labels, names)
        guess = draw_boxes(small, found["boxes"][sure].numpy() * scale, labels, captions)
        tile = np.full((side, 2 * side + 8, 3), 255, np.uint8)
        for number, picture in enumerate((truth, guess)):
            left = number * (side + 8)
            tile[: picture.shape[0], left : left + picture.shape[1]] = picture
        tiles.append(tile)
    if not tiles:
        tiles = [np.full((side, 2 * side + 8, 3), 255, np.uint8)]
    if len(tiles) % 2:
        tiles.append(np.full_like(tiles[0], 255))
    gap = np.full((side, 24, 3), 255, np.uint8)
    rows = [np.concatenate([tiles[at], gap, tiles[at + 1]], axis=1) for at in range(0, len(tiles), 2)]
    head = Image.new("RGB", (rows[0].shape[1], 26), "white")
    pen = ImageDraw.Draw(head)
    font = ImageFont.load_default(16)
    for number, text in enumerate(["truth", "predicted"] * 2):
        left = (number % 2) * (side + 8) + (number // 2) * (2 * side + 8 + 24)
        pen.text((left + 4, 4), text, fill="black", font=font)
    spaced = [np.concatenate([row, np.full((8, row.shape[1], 3), 255, np.uint8)]) for row in rows]
    return picture_png(np.concatenate([np.asarray(head), *spaced]), path)


def precision_png(curves: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Precision over recall at two overlaps and in the mean."""
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
    return write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
