"""Segmentation: metrics of classes, confusion of pixels, and images with predicted and true masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel, Field, StrictInt, StrictStr

from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.data.segmentation.dataset import IGNORE, MaskRecord
from vpt.data.segmentation.run_lengths import mask_of
from vpt.metrics.segmentation_plots import GROUND, colours_of
from vpt.report.confusion_matrix import drawings
from vpt.report.html import Cell, Column, Section, Table, count, percent, render
from vpt.report.image_encoding import photo_uri, png_uri, small
from vpt.utils.errors import UserError

SIDE = 300  # pixels of a photo
STRENGTH = 150  # of 255, of the colour of a class over the photo
WRONG, LEFT_OUT = (240, 90, 20, 200), (0, 0, 0, 150)  # colours of the difference

Pixels = Annotated[StrictInt, Field(ge=0, lt=1 << 40)]


class Predicted(BaseModel):
    """An image of `predictions-SPLIT.json`.

    Args:
        image: its name.
        width, height: of the image, in pixels.
        miou: mean IoU over the classes that are predicted or true in it; None if all of its pixels are ignored.
        segments: predicted classes, with the run-length encodings of their pixels.
        counts: of each class that is predicted or true, pixels that are both, predicted, and true.
    """

    image: StrictStr
    width: Pixels
    height: Pixels
    miou: Annotated[float, Field(ge=0, le=1)] | None
    segments: list[dict[str, Any]]
    counts: dict[StrictStr, tuple[Pixels, Pixels, Pixels]] = {}

    def mask(self, classes: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """The predicted mask (H, W) uint8 of an image of that height and width.

        Raises:
            UserError: it was predicted for another size or other classes, or is damaged.
        """
        try:
            if any(row["rle"]["size"] != list(size) for row in self.segments) or not self.segments:
                raise ValueError("it is of another size")
            return mask_of(self.segments, classes)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"the predicted mask of {self.image} cannot be shown: {error}") from None


def counts_of(rows: Sequence[Predicted], classes: Sequence[str]) -> np.ndarray:
    """Pixels (images, K, 3) of each class: both predicted and true, predicted, true."""
    none = (0, 0, 0)
    return np.array([[row.counts.get(name, none) for name in classes] for row in rows], np.int64)


def classes_section(measured: Mapping[str, Any], classes: Sequence[str]) -> Section:
    """Metrics of every class, and which classes are taken for which."""
    keys = {"iou": "IoU", "dice": "Dice", "boundary": "boundary F"}
    total = max(1, sum(row.get("pixels") or 0 for row in measured["per_class"]))
    rows = [
        [row["class"], *(percent(row.get(key)) for key in keys), *_pixels(row.get("pixels") or 0, total)]
        for row in measured["per_class"]
    ]
    heads = [Column("class", "text"), *map(Column, keys.values()), Column("share of pixels"), Column("pixels")]
    tables = [Table("metrics by class", heads, rows, sortable=True)]
    matrices: list[Markup] = []
    if measured.get("confusion") is not None:
        matrices, pairs = drawings(np.asarray(measured["confusion"]), classes, "pixels", shares=True)
        tables += pairs
    text = (
        f"{percent(measured.get('pixel_accuracy'))} of the pixels are correct; ignored pixels are not counted. The "
        "numbers of the confusion matrix are percentages of the pixels of the true class."
    )
    return Section("classes", "Classes", render("confusion.html", text=text, matrices=matrices, tables=tables))


def pictures_section(
    rows: Sequence[Predicted], records: Mapping[str, Record], classes: Sequence[str], most: int, max_pixels: int
) -> Section:
    """The images with the lowest mean IoU: true mask, predicted mask, and where they differ.

    Raises:
        UserError: there are predictions for none of the images, or they do not fit.
    """
    there = [row for row in rows if row.miou is not None and isinstance(records.get(row.image), MaskRecord)]
    if not there:
        raise UserError("there are predictions for none of the images")
    worst = sorted(there, key=lambda row: row.miou or 0.0)[:most]
    tiles, seen = [], set[int]()
    for number, row in enumerate(worst):
        record = records[row.image]
        assert isinstance(record, MaskRecord)
        try:
            pixels = read(record, max_pixels).pixels
            truth = record.read_mask((pixels.shape[1], pixels.shape[0]))
        except BadImage:
            continue
        tiles.append(_tile(number, row, pixels, truth, classes))
        seen |= set(np.unique(truth)) | {classes.index(one["label"]) for one in row.segments}
    legend = [(name, _css(colours_of(classes)[at])) for at, name in enumerate(classes) if at in seen and name != GROUND]
    body = render("masks.html", tiles=tiles, legend=legend, images=len(there), wrong=_css(WRONG), left=_css(LEFT_OUT))
    return Section("pictures", "Worst images", body)


def _tile(number: int, row: Predicted, pixels: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    predicted = row.mask(classes, (pixels.shape[0], pixels.shape[1]))
    shown = small(pixels, SIDE)
    size = (shown.shape[1], shown.shape[0])
    shrunk = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (truth, predicted)]
    table = np.zeros((256, 4), np.uint8)
    table[: len(classes), :3] = colours_of(classes)
    table[: len(classes), 3] = [0 if name == GROUND else STRENGTH for name in classes]
    differs = np.zeros((*shrunk[0].shape, 4), np.uint8)
    differs[shrunk[0] != shrunk[1]] = WRONG
    differs[shrunk[0] == IGNORE] = LEFT_OUT
    counted = truth != IGNORE
    wrong = float((truth != predicted)[counted].mean()) if counted.any() else 0.0
    return {
        "id": f"scene{number}",
        "name": row.image,
        "uri": photo_uri(shown),
        "wide": size[0],
        "high": size[1],
        "layers": [
            ("true mask", png_uri(table[shrunk[0]])),
            ("predicted mask", png_uri(table[shrunk[1]])),
            ("wrong pixels", png_uri(differs)),
        ],
        "miou": percent(row.miou),
        "share": percent(wrong),
    }


def _pixels(number: int, total: int) -> tuple[str, Cell]:
    return percent(number / total), Cell(count(number), number)


def _css(colour: Sequence[int]) -> str:
    red, green, blue = (int(value) for value in colour[:3])
    return f"background: rgb({red} {green} {blue})"
