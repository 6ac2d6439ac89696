"""Compares image sizes stated by annotations with the files, to determine the pixels that boxes refer to.

Boxes of records refer to the upright image, as it is decoded. Tools disagree about files rotated by EXIF: some annotate
the image as it is displayed, others as it is stored. The stated size tells which, unless both are equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vpt.data.datasets.entries import listed, number_of
from vpt.data.decode import FORMATS
from vpt.data.detection.dataset import Box, BoxEntry, Size
from vpt.data.image_cache import threads
from vpt.data.medical.files import kind_of
from vpt.data.medical.read import slice_size
from vpt.data.pillow_compat import pillow_settings

MISSING = "no such file"
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 4 keep the sides, 5 to 8 swap them


class Header(NamedTuple):
    """Width and height as stored, in pixels, and the EXIF orientation."""

    width: int
    height: int
    orientation: int

    @property
    def stored(self) -> Size:
        """Width and height of the pixels in the file."""
        return self.width, self.height

    @property
    def upright(self) -> Size:
        """Width and height of the image as it is displayed."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path, max_pixels: int) -> Header | None:
    """Size and orientation of an image from its header; None if it cannot be read.

    >>> read_header(Path("no/such.jpg"), 100) is None
    True
    """
    try:
        if kind_of(path):
            return Header(*slice_size(path, max_pixels), orientation=1)
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        with pillow_settings(max_pixels), path.open("rb") as file, closing(Image.open(file, formats=known)) as image:
            width, height = image.size
            orientation = _orientation(image)
            # Pillow rotates TIFF files itself, and reports their rotated size from the start.
            if image.format == "TIFF" and orientation >= 5:
                width, height = height, width
            return Header(width, height, orientation)
    except Exception:
        return None  # the data check reports why


def _orientation(image: Image.Image) -> int:
    # Broken EXIF data means "upright", as in decoding.
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def turned(box: Box, stored: Size, orientation: int) -> Box:
    """Transform a box from the stored pixels to the upright image.

    >>> turned((0, 0, 10, 5), (64, 48), 6)
    (43, 0, 48, 10)
    """
    width, height = stored
    points = [_turned_point(x, y, width, height, orientation) for x, y in (box[:2], box[2:])]
    (x1, x2), (y1, y2) = (sorted(values) for values in zip(*points, strict=True))
    return x1, y1, x2, y2


def _turned_point(x: float, y: float, width: int, height: int, orientation: int) -> tuple[float, float]:
    if orientation in (2, 3, 7, 8):
        x = width - x
    if orientation in (3, 4, 6, 7):
        y = height - y
    return (y, x) if orientation >= 5 else (x, y)


def placed(entries: Sequence[BoxEntry], max_pixels: int, notes: list[str]) -> list[BoxEntry]:
    """Set the sizes of entries from their files, and convert boxes to upright pixels. Entries whose size does not fit,
    and missing files, get a defect; if a header cannot be read, the size is None. Changes are reported in `notes`, by
    name.
    """
    with ThreadPoolExecutor(threads()) as pool:
        headers = list(pool.map(lambda entry: read_header(entry.source, max_pixels), entries))
    frames = [_frame(entry, header) for entry, header in zip(entries, headers, strict=True)]
    unclear = "stored" if "stored" in frames and "upright" not in frames else "upright"
    placed = []
    turned_names, guessed = [], []
    for entry, header, frame in zip(entries, headers, frames, strict=True):
        if header is None:
            placed.append(entry._replace(size=None, defect="" if os.path.exists(entry.source) else MISSING))
            continue
        if frame == "other":
            placed.append(entry._replace(defect=_other_size(entry, header)))
            continue
        if frame == "either":
            guessed.append(entry.name)
            frame = unclear
        if frame == "stored":
            turned_names.append(entry.name)
        placed.append(_placed(entry, header, frame == "stored"))
    other = [entry.name for entry in placed if entry.defect not in ("", MISSING)]
    if other:
        notes.append(
            f"{number_of(len(other), 'image')} whose size differs from the annotation, so that the boxes would be "
            f"wrong: {listed(other, 5)}; use the files that were annotated, or export the annotations of these files"
        )
    if turned_names:
        notes.append(
            f"rotated the boxes of {number_of(len(turned_names), 'image')}, annotated as stored, to match the EXIF "
            f"orientation: {listed(turned_names, 5)}"
        )
    if guessed:
        notes.append(
            f"EXIF rotates or mirrors {number_of(len(guessed), 'image')} and the annotated size does not tell whether "
            f"the boxes follow; assuming boxes in the image as {'displayed' if unclear == 'upright' else unclear}: "
            f"{listed(guessed, 5)}"
        )
    return placed


def _frame(entry: BoxEntry, header: Header | None) -> str:
    """The pixels that the boxes of an entry refer to: "upright", "stored", "either" if the size does not tell, "other"
    if it fits neither, "unknown" without a readable file."""
    if header is None:
        return "unknown"
    if entry.fractions or header.orientation == 1:
        return "upright" if entry.fractions or entry.size in (None, header.stored) else "other"
    if entry.size is None or (entry.size == header.stored == header.upright):
        return "either"
    return {header.upright: "upright", header.stored: "stored"}.get(entry.size, "other")


def _placed(entry: BoxEntry, header: Header, stored: bool) -> BoxEntry:
    width, height = header.upright
    boxes = []
    for raw in entry.boxes:
        x1, y1, x2, y2 = raw.box
        if entry.fractions:
            raw = raw._replace(box=(x1 * width, y1 * height, x2 * width, y2 * height))
        elif stored and x1 <= x2 and y1 <= y2:  # invalid boxes are dropped later, with the numbers of the file
            raw = raw._replace(box=turned(raw.box, header.stored, header.orientation))
        boxes.append(raw)
    return entry._replace(boxes=tuple(boxes), size=header.upright, fractions=False)


def _other_size(entry: BoxEntry, header: Header) -> str:
    assert entry.size is not None
    width, height = entry.size
    stated = f"{entry.file.name} states" if entry.file is not None else "its annotation states"
    text = f"the file has {header.upright[0]}x{header.upright[1]} pixels, {stated} {width}x{height}"
    if (height, width) == header.upright:
        return f"{text}: width and height are swapped"
    return text
