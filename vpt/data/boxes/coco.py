"""COCO JSON: one file a split, with images, annotations and categories."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.data.boxes.records import BoxEntry, BoxFound, BoxRecord, RawBox
from vpt.data.entries import SPLIT_NAMES, listed
from vpt.data.paths import inside
from vpt.errors import UserError
from vpt.files import read_json

LARGEST = 2**63  # of ids and of sizes in pixels


def find_coco(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by split: `SPLIT/_annotations.coco.json`, `annotations/instances_SPLIT*.json`,
    `annotations/SPLIT.json` or `SPLIT.json`."""
    found: dict[str, Path] = {}
    for file in sorted([*folder.glob("*/*.json"), *folder.glob("*.json")]):
        stem = file.stem.lower().removeprefix("instances_").rstrip("0123456789")
        if file.name == "_annotations.coco.json":
            stem = file.parent.name.lower()
        split = SPLIT_NAMES.get(stem)
        if split is not None:
            found.setdefault(split, file)
    return found


def read_coco(files: dict[str, Path], root: Path | None = None) -> BoxFound:
    """Read the files of one data set.

    Args:
        files: by split.
        root: where image paths start; default: beside the file, in `images`, or in a folder named after the split.

    Raises:
        UserError: a file that is missing, no JSON, or not in COCO's form; images that do not exist, by name.
    """
    found = BoxFound()
    names: dict[int, str] = {}
    for split, file in files.items():
        tree = _read(file)
        for category in _items(tree, "categories", file):
            identity, name = _number(category, "id", file), str(category.get("name", ""))
            if names.setdefault(identity, name) != name:
                raise UserError(f"category {identity} is '{names[identity]}' in one split and '{name}' in {file}")
        found.splits[split] = _entries(tree, file, root, names)
    doubled = [name for name, count in Counter(names.values()).items() if count > 1]
    if doubled:
        raise UserError(f"{listed([str(file) for file in files.values()])}: two categories are named '{doubled[0]}'")
    used = {raw.label for entries in found.splits.values() for entry in entries for raw in entry.boxes}
    # COCO's own files list categories that no box has; ids may be sparse, so their order counts.
    found.classes = tuple(names[identity] for identity in sorted(names) if names[identity] in used)
    return found


def _entries(tree: dict[str, Any], file: Path, root: Path | None, names: dict[int, str]) -> list[BoxEntry]:
    boxes: dict[int, list[RawBox]] = {}
    images = {_number(image, "id", file): image for image in _items(tree, "images", file)}
    for annotation in _items(tree, "annotations", file):
        owner, category = _number(annotation, "image_id", file), _number(annotation, "category_id", file)
        if owner not in images:
            raise UserError(
                f"{file}: annotation {_short(annotation.get('id'))} belongs to image {owner}, which is not listed"
            )
        if category not in names:
            raise UserError(
                f"{file}: annotation {_short(annotation.get('id'))} has category {category}, which is not listed"
            )
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            raise UserError(f"{file}: annotation {_short(annotation.get('id'))} has no bbox of four numbers")
        try:
            x, y, width, height = map(float, box)
        except OverflowError:
            raise UserError(
                f"{file}: annotation {_short(annotation.get('id'))} has a bbox beyond all numbers"
            ) from None
        crowd = bool(annotation.get("iscrowd", 0))
        boxes.setdefault(owner, []).append(RawBox(names[category], (x, y, x + width, y + height), crowd))
    entries = []
    missing = []
    for identity, image in images.items():
        name = str(image.get("file_name", ""))
        path = _locate(file, root, name)
        if not os.path.isfile(path):
            missing.append(name)
            continue
        size = (_number(image, "width", file), _number(image, "height", file))
        entries.append(BoxEntry(f"{file.stem}/{name}", path, tuple(boxes.get(identity, ())), size))
    if missing:
        raise UserError(f"{file} lists {len(missing)} images that cannot be found: {listed(missing)}")
    return entries


def _locate(file: Path, root: Path | None, name: str) -> Path:
    if root is not None:
        return inside(root, name, file)
    parent = file.parent.parent if file.parent.name == "annotations" else file.parent
    stem = file.stem.removeprefix("instances_")
    places = [file.parent, parent / "images", parent / stem, parent / "images" / stem, parent]
    for place in places:
        path = inside(place, name, file)
        if os.path.isfile(path):
            return path
    return inside(places[0], name, file)


def _read(file: Path) -> dict[str, Any]:
    tree = read_json(file, "check data.path")
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{file} is not a COCO file: it must hold the lists images, annotations and categories")
    return tree


def _items(tree: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    items = tree.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{file}: '{key}' must be a list of objects")
    return items


def _number(item: dict[str, Any], key: str, file: Path) -> int:
    value = item.get(key)
    whole = value.is_integer() if isinstance(value, float) else isinstance(value, int) and not isinstance(value, bool)
    if value is None or not whole or abs(value) > LARGEST:  # JSON as Python reads it has NaN and Infinity, too
        raise UserError(f"{file}: '{key}' must be a whole number in {_short(item)}")
    return int(value)


def _short(item: object) -> str:
    """The beginning of a part of the file, for messages."""
    try:
        return str(item)[:80]
    except ValueError:  # a number of more digits than Python prints
        return "..."


def to_coco(records: Sequence[BoxRecord], classes: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    """A COCO tree of records; `paths` are the file names to give.

    >>> to_coco([BoxRecord("a", Path("a.png"), (0,), ((1.0, 2.0, 4.0, 6.0),), (False,), (8, 8))], ["cat"], ["a.png"])[
    ...     "annotations"
    ... ][0]["bbox"]
    [1.0, 2.0, 3.0, 4.0]
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (record, path) in enumerate(zip(records, paths, strict=True), 1):
        width, height = record.size
        images.append({"id": number, "file_name": path, "width": width, "height": height})
        for box, label, crowd in zip(record.boxes, record.labels, record.crowds, strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
