"""YOLO: a data.yaml with the splits and class names, and a text file of normalised boxes for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.config import read_yaml
from vpt.data.boxes.records import BoxEntry, BoxFound, BoxRecord, RawBox
from vpt.data.boxes.sizes import upright_size
from vpt.data.entries import SPLIT_NAMES, is_image, listed
from vpt.data.lists import read_lines, read_text
from vpt.data.paths import inside
from vpt.errors import UserError
from vpt.names import shown

MEND = "check data.path"


def read_yolo(file: Path, max_pixels: int) -> BoxFound:
    """Read a data set by its data.yaml: `path` (optional), `train`, `val`, `test`, `names`.

    A split is a folder of images, a text file that lists images, or a list of these; labels lie in the same place with
    `images` replaced by `labels`. An image without a label file has no boxes.

    Raises:
        UserError: a file that is missing or has a line that is no box, named.
    """
    tree = read_yaml(file)
    names = _names(tree.get("names"), file)
    root = file.parent / str(tree.get("path") or ".")
    if not os.path.isdir(root):
        root = file.parent
    found = BoxFound(classes=names)
    for key, value in tree.items():
        split = SPLIT_NAMES.get(str(key).lower())
        if split is None or value is None:
            continue
        places = value if isinstance(value, list) else [value]
        images = [image for place in places for image in _images(root, str(place), file)]
        if not images:
            raise UserError(f"{file}: {key}={value} holds no images below {root}")
        found.splits[split] = [_entry(root, image, names, max_pixels) for image in images]
    if "train" not in found.splits:
        raise UserError(f"{file} names no training images; add 'train: images/train'")
    return found


def _names(value: Any, file: Path) -> tuple[str, ...]:
    if isinstance(value, dict):
        try:
            ordered = {int(key): str(name) for key, name in value.items()}
        except (ValueError, TypeError, OverflowError):
            raise UserError(f"{file}: the keys of names must be numbers from 0 on") from None
        if sorted(ordered) != list(range(len(ordered))):
            raise UserError(f"{file}: the keys of names must be the numbers 0 to {len(ordered) - 1}")
        value = [ordered[number] for number in range(len(ordered))]
    if not isinstance(value, list) or not value:
        raise UserError(f"{file} needs the class names, as in 'names: [cat, dog]'")
    names = tuple(str(name) for name in value)
    if len(set(names)) < len(names):
        raise UserError(f"{file}: a class name occurs twice in {listed(list(names))}")
    return names


def _images(root: Path, place: str, file: Path) -> list[Path]:
    # Exports of some tools start with "../", meaning the folder of data.yaml.
    path = root / place
    if not os.path.exists(path) and place.startswith("../"):
        path = root / place.removeprefix("../")
    if os.path.isdir(path):
        return sorted(image for image in path.rglob("*") if image.is_file() and is_image(image.name))
    if path.suffix == ".txt" and os.path.isfile(path):
        return [inside(root, line.removeprefix("./"), path) for line in read_lines(path, MEND)]
    raise UserError(f"{file}: there is no folder or list {str(path)[:200]}")


def _entry(root: Path, image: Path, names: Sequence[str], max_pixels: int) -> BoxEntry:
    size = upright_size(image, max_pixels)
    labels = _label_file(image)
    boxes = []
    # A file that cannot be read is told by the check; its boxes have no meaning without a size.
    lines = read_text(labels, MEND).splitlines() if os.path.isfile(labels) else []
    for number, line in enumerate(lines, 1):
        if line.strip():
            boxes.append(_box(line.split(), names, size or (1, 1), f"{labels}, line {number}"))
    return BoxEntry(
        shown(image.relative_to(root) if image.is_relative_to(root) else image), image, tuple(boxes), size or (1, 1)
    )


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _box(words: list[str], names: Sequence[str], size: tuple[int, int], place: str) -> RawBox:
    try:
        label, *numbers = int(words[0]), *map(float, words[1:])
    except ValueError:  # also a class of more digits than Python reads
        raise UserError(f"{place}: '{' '.join(words)[:60]}' is not 'class x y width height'") from None
    if not 0 <= label < len(names):
        raise UserError(f"{place}: class {words[0][:20]} is not among the {len(names)} names")
    width, height = size
    if len(numbers) == 4:
        x, y, w, h = numbers
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # a polygon: its bounding box
        corners = (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
    else:
        raise UserError(f"{place}: '{' '.join(words)[:60]}' is not 'class x y width height'")
    x1, y1, x2, y2 = corners
    return RawBox(names[label], (x1 * width, y1 * height, x2 * width, y2 * height))


def to_yolo(record: BoxRecord) -> str:
    """The label file of a record.

    >>> to_yolo(BoxRecord("a", Path("a.png"), (0,), ((1.0, 2.0, 3.0, 6.0),), (False,), (8, 8)))
    '0 0.25 0.5 0.25 0.5\\n'
    """
    width, height = record.size
    lines = []
    for label, (x1, y1, x2, y2) in zip(record.labels, record.boxes, strict=True):
        numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(label), *(f"{number:.8g}" for number in numbers)]) + "\n")
    return "".join(lines)
