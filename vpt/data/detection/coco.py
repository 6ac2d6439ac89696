"""COCO JSON: one file per split, with images, annotations and categories."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.data.annotation_text import by_number, identifier, measure, one_form, printable, whole_number
from vpt.data.datasets.entries import listed, number_of
from vpt.data.detection.coco_files import Images, image_folders, names_split
from vpt.data.detection.dataset import BoxEntry, BoxFound, BoxRecord, RawBox, Size
from vpt.data.detection.segmentation_boxes import segmentation_box
from vpt.data.file_lookup import Files
from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError

LARGEST = 2**63  # limit of ids and of sizes in pixels


def read_coco(files: dict[str, Path], folder: Path) -> BoxFound:
    """Read the annotation files of one data set.

    Ids may be numbers or text. An annotation without `bbox` gets the bounding box of its segmentation.

    Args:
        files: by split.
        folder: of the data set. Images are next to their file, in `images`, in a folder named after the split, or at a
            path below `folder`.

    Raises:
        UserError: a file that is missing, not JSON, or not in COCO's format; two images with the same id, or an
            annotation of an image or a category that is not listed.
    """
    found = BoxFound(folder=folder, read=set(files.values()))
    trees = {split: _read(file) for split, file in files.items()}
    categories = {split: _categories(tree, files[split]) for split, tree in trees.items()}
    used: dict[str, set[str]] = {}
    known = Files()
    for split, tree in trees.items():
        reader = _Reader(files[split], categories[split], found.notes)
        found.splits[split] = reader.entries(tree, image_folders(files[split], split), folder, known)
        used[split] = reader.used
    found.classes = _classes(categories, files, used, found.notes)
    if list(files) == ["train"] and not names_split(files["train"], folder):
        found.tops = [*image_folders(files["train"], "train"), folder]
    return found


def _classes(
    categories: dict[str, dict[str, str]], files: dict[str, Path], used: dict[str, set[str]], notes: list[str]
) -> tuple[str, ...]:
    """The class names that have boxes, in the order of their ids. COCO's own files list categories without boxes."""
    for split, mapping in categories.items():
        doubled = [name for name, count in Counter(mapping[one] for one in used[split]).items() if count > 1]
        if doubled:
            raise UserError(
                f"{files[split]}: two categories are named {printable(doubled[0])}, and both have boxes; give them "
                "different names"
            )
    names: dict[str, str] = {}
    agree = True
    for mapping in categories.values():
        for identity, name in mapping.items():
            agree = (names.setdefault(identity, name) == name) and agree
    if agree:
        order = [names[identity] for identity in sorted(names, key=by_number)]
    else:
        notes.append("the files of the splits number their categories differently, so classes are matched by name")
        order = [mapping[identity] for mapping in categories.values() for identity in sorted(mapping, key=by_number)]
    there = {mapping[identity] for split, mapping in categories.items() for identity in used[split]}
    return tuple(dict.fromkeys(name for name in order if name in there))


class _Reader:
    """Reads the images and annotations of one file."""

    def __init__(self, file: Path, categories: dict[str, str], notes: list[str]) -> None:
        self._file = file
        self._categories = categories
        self._notes = notes
        self.used: set[str] = set()  # ids of categories that have boxes

    def entries(self, tree: dict[str, Any], places: Sequence[Path], folder: Path, known: Files) -> list[BoxEntry]:
        """All images with their boxes."""
        images = self._images(_items(tree, "images", self._file))
        boxes = self._boxes(_items(tree, "annotations", self._file), images)
        names = [str(image.get("file_name") or "") for image in images.values()]
        finder = Images(self._file, places, folder, known)
        paths = finder.locate(names)
        if finder.outside:
            self._notes.append(
                f"{self._file.name}: {number_of(finder.outside, 'path')} lead out of the data set; using the images in "
                "it that match their ends"
            )
        return [
            BoxEntry(f"{self._file.stem}/{name}", path, tuple(boxes.get(identity, ())), self._size(image), self._file)
            for (identity, image), name, path in zip(images.items(), names, paths, strict=True)
        ]

    def _images(self, items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The images by id."""
        images: dict[str, dict[str, Any]] = {}
        clashes: list[str] = []
        repeated = 0
        for item in items:
            identity = self._identifier(item, "id")
            first = images.setdefault(identity, item)
            if first is item:
                continue
            if first.get("file_name") == item.get("file_name"):
                repeated += 1
            else:
                clashes.append(f"{identity} ({first.get('file_name')} and {item.get('file_name')})")
        if clashes:
            raise UserError(
                f"{self._file}: two images have the same id: {listed(clashes, 5)}; their boxes cannot be told apart; "
                "give each image its own id"
            )
        if repeated:
            self._notes.append(
                f"{self._file.name} lists {number_of(repeated, 'image')} a second time, with the same id"
            )
        return images

    def _boxes(self, items: Sequence[dict[str, Any]], images: dict[str, dict[str, Any]]) -> dict[str, list[RawBox]]:
        """The boxes of each image, by its id."""
        boxes: dict[str, list[RawBox]] = {}
        derived, strange_areas = 0, 0
        strays: list[str] = []
        for item in items:
            owner, category = self._identifier(item, "image_id"), self._identifier(item, "category_id")
            if owner not in images:
                strays.append(f"annotation {item.get('id')} belongs to image {owner}, which is not listed")
                continue
            if category not in self._categories:
                strays.append(f"annotation {item.get('id')} has category {category}, which is not listed")
                continue
            self.used.add(category)
            name = f"{self._file}: annotation {item.get('id')}"
            box, is_derived = self._box(item, name)
            area = measure(item.get("area"))
            if area is not None and not (math.isfinite(area) and area >= 0):
                area = None
                strange_areas += 1
            derived += is_derived
            crowd = self._crowd(item, name)
            at = f"annotation {item.get('id')}"
            boxes.setdefault(owner, []).append(RawBox(self._categories[category], box, crowd, area, at))
        if strays:
            raise UserError(f"{self._file}: {listed(strays, 3)}; list these images and categories in the file")
        if derived:
            self._notes.append(
                f"{self._file.name}: {number_of(derived, 'annotation')} without bbox; using the bounding box of the "
                "segmentation"
            )
        if strange_areas:
            self._notes.append(
                f"{self._file.name}: {number_of(strange_areas, 'annotation')} with an invalid area; using the area of "
                "the box"
            )
        return boxes

    def _box(self, item: dict[str, Any], name: str) -> tuple[tuple[float, float, float, float], bool]:
        """The box x1, y1, x2, y2, and whether it comes from the segmentation."""
        box = item.get("bbox")
        if box is None or box == []:
            around = segmentation_box(item.get("segmentation"))
            if around is None:
                raise UserError(f"{name} has no bbox of four numbers, and no segmentation to derive one from")
            return around, True
        numbers = [measure(value) for value in box] if isinstance(box, list) else []
        if len(numbers) != 4 or any(value is None for value in numbers):
            raise UserError(f"{name} has no bbox of four numbers: {printable(box)}; it must be [x, y, width, height]")
        x, y, width, height = (value for value in numbers if value is not None)
        return (x, y, x + width, y + height), False

    def _crowd(self, item: dict[str, Any], name: str) -> bool:
        crowd = item.get("iscrowd")
        if crowd in (None, 0, 1, "0", "1"):
            return crowd in (1, "1")
        raise UserError(f"{name}: 'iscrowd' is {printable(crowd)}; it must be 0 or 1")

    def _size(self, image: dict[str, Any]) -> Size | None:
        sides = [self._side(image, key) for key in ("width", "height")]
        return (sides[0], sides[1]) if all(sides) else None

    def _side(self, image: dict[str, Any], key: str) -> int:
        """A side in pixels; 0 if it is not given."""
        value = image.get(key)
        side = whole_number(value if isinstance(value, str) else str(value)) if value not in (None, "") else 0
        if side is None or side < 0 or isinstance(value, bool):
            raise UserError(f"{self._file}: '{key}' must be a whole number in {str(image)[:80]}")
        return side

    def _identifier(self, item: dict[str, Any], key: str) -> str:
        identity = identifier(item.get(key))
        if identity is None:
            raise UserError(f"{self._file}: '{key}' must be a number or a text in {str(item)[:80]}")
        return identity


def _categories(tree: dict[str, Any], file: Path) -> dict[str, str]:
    """Class names by id."""
    names: dict[str, str] = {}
    for item in _items(tree, "categories", file):
        identity = identifier(item.get("id"))
        name = one_form(str(item.get("name") or ""))
        if identity is None or not name:
            raise UserError(f"{file}: a category must have an id and a name, unlike {str(item)[:80]}")
        if names.setdefault(identity, name) != name:
            raise UserError(f"{file}: category {identity} is named {printable(names[identity])} and {printable(name)}")
    return names


def _read(file: Path) -> dict[str, Any]:
    tree = read_json(file, "check data.path")
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{file} is not a COCO file: it must contain the lists images, annotations and categories")
    return tree


def _items(tree: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    items = tree.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{file}: '{key}' must be a list of objects")
    return items


def to_coco(records: Sequence[BoxRecord], classes: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    """Convert records to COCO's format; `paths` are the file names to write.

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
        rows = zip(record.boxes, record.labels, record.crowds, record.object_areas(), strict=True)
        for (x1, y1, x2, y2), label, crowd, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
