"""YOLO's label files: where they are, and how their lines are parsed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vpt.data.annotation_text import number, printable, whole_number
from vpt.data.datasets.split_files import read_text
from vpt.data.detection.dataset import Box, RawBox
from vpt.data.file_lookup import Files
from vpt.utils.errors import UserError

# Boxes and polygons may extend beyond the image; larger numbers are pixels, or the visibility of keypoints.
_FAR, _FAR_POLYGON = 4.0, 1.5


class Labels(NamedTuple):
    """The boxes of a label file as fractions of the image's sides, and the numbers of lines that were poses, polygons,
    or had an additional number (a track or a confidence)."""

    boxes: tuple[RawBox, ...]
    poses: int
    polygons: int
    extra: int


def label_file(image: Path, root: Path, files: Files) -> Path | None:
    """The label file of an image, or None.

    It has the name of the image. It is searched in the folder with `labels` instead of the last `images` in the image's
    path inside the data set; then next to the image; then with `labels` instead of an `images` folder above the data
    set.

    Args:
        image: the image file.
        root: the folder of the data set.
        files: finds files.
    """
    for base, place in _places(image, root):
        found = files.find(base, place / f"{image.stem}.txt")
        if found is not None and found.is_file():
            return found
    return None


def _places(image: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """Existing folders, and folders below them that may contain the label file."""
    if image.is_relative_to(root) and (inner := _replaced(image.parent.relative_to(root))) is not None:
        yield root, inner
    yield image.parent, Path()
    if (whole := _replaced(image.parent.absolute())) is not None:
        yield whole, Path()


def _replaced(folder: Path) -> Path | None:
    """A folder with `labels` instead of its last `images`."""
    parts = list(folder.parts)
    for at in range(len(parts) - 1, -1, -1):
        if parts[at] == "images":
            return Path(*parts[:at], "labels", *parts[at + 1 :])
    return None


def read_labels(file: Path, names: Sequence[str], keypoints: int | None) -> Labels:
    """Read a label file.

    Args:
        file: an existing file.
        names: class names.
        keypoints: number of values after the box in pose labels, or None.

    Raises:
        UserError: it is not text, or a line is not a box, polygon or pose; the message names the line.
    """
    boxes, poses, polygons, extra = [], 0, 0, 0
    for at, line in enumerate(read_text(file, "check data.path").splitlines(), 1):
        if not line.strip():
            continue
        box, kind, has_extra = _line(line, names, keypoints, f"{file}, line {at}")
        boxes.append(box._replace(at=f"line {at}"))
        poses += kind == "pose"
        polygons += kind == "polygon"
        extra += has_extra
    return Labels(tuple(boxes), poses, polygons, extra)


def _line(line: str, names: Sequence[str], keypoints: int | None, place: str) -> tuple[RawBox, str, bool]:
    """The box, the kind of the line, and whether it has an additional number."""
    first, *words = line.split()
    label = whole_number(first)
    numbers = [value for word in words if (value := number(word)) is not None]
    if label is None or len(numbers) < len(words) or len(numbers) < 4:
        raise UserError(f"{place}: {printable(line.strip())} is not 'class x y width height'")
    if not 0 <= label < len(names):
        raise UserError(f"{place}: class {label} is out of range: there are {len(names)} names, counted from 0")
    count = len(numbers)
    if count in (4, 5):
        return RawBox(names[label], _centred(numbers, place)), "box", count == 5
    if keypoints is not None:
        if count - 4 in (keypoints, keypoints + 1):
            return RawBox(names[label], _centred(numbers, place)), "pose", count - 4 > keypoints
        raise UserError(
            f"{place}: {printable(line.strip())} has {count} numbers after the class; with kpt_shape it must have 4 or "
            f"{4 + keypoints}"
        )
    if count % 2 or max((abs(value) for value in numbers if math.isfinite(value)), default=0) > _FAR_POLYGON:
        raise UserError(
            f"{place}: {printable(line.strip())} is neither 'class x y width height' nor a polygon in fractions of the "
            "image's sides; poses need kpt_shape in data.yaml"
        )
    return RawBox(names[label], _around(numbers)), "polygon", False


def _centred(numbers: Sequence[float], place: str) -> Box:
    x, y, width, height = numbers[:4]
    if any(math.isfinite(value) and abs(value) > _FAR for value in (x, y, width, height)):
        raise UserError(
            f"{place}: x, y, width and height are {x:g}, {y:g}, {width:g}, {height:g}; they must be fractions of the "
            "image's sides, from 0 to 1, and these look like pixels"
        )
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(numbers: Sequence[float]) -> Box:
    if not all(map(math.isfinite, numbers)):
        return math.nan, math.nan, math.nan, math.nan
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
