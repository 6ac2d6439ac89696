"""Data sets of outlined objects as masks: COCO (polygons, run-length encodings, crowds) and YOLO's polygons.

The readers of boxes find images, splits and classes; the outlines are read here. Pixels in no object are the class
"background", which is added unless the data set has one of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.data.annotation_text import identifier, number, one_form
from vpt.data.datasets.entries import listed, number_of
from vpt.data.datasets.split_files import read_text
from vpt.data.detection.coco import read_coco
from vpt.data.detection.coco_files import coco_files, dataset_folder
from vpt.data.detection.dataset import BoxFound
from vpt.data.detection.held_out import hold_out
from vpt.data.detection.yolo import read_yolo
from vpt.data.segmentation.dataset import MOST_CLASSES, MaskEntry, MaskFound
from vpt.data.segmentation.shapes import Shape, Shapes, points_of
from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError

BACKGROUND = "background"
_SHOWN = 5


def read_coco_masks(place: Path) -> MaskFound:
    """Read COCO's annotation files of a folder, or one file.

    Raises:
        UserError: as `read_coco`; and annotations without a segmentation.
    """
    files, folder = ({"train": place}, dataset_folder(place)) if place.is_file() else (coco_files(place), place)
    found = read_coco(files, folder)
    names, ground = _with_background(found.classes or (), place)
    outlines: dict[int, tuple[Shape, ...]] = {}
    notes: list[str] = []
    for split, file in files.items():
        by_image = _coco_shapes(file, {name: label for label, name in enumerate(names)}, notes)
        for entry, shapes in zip(found.splits[split], by_image, strict=True):
            outlines[id(entry)] = shapes
    found.notes = [note for note in found.notes if "bounding box" not in note] + notes
    return _converted(found, names, ground, outlines)


def _coco_shapes(file: Path, labels: dict[str, int], notes: list[str]) -> list[tuple[Shape, ...]]:
    """The objects of each image of a file that `read_coco` has accepted, in its order."""
    tree = read_json(file, "check data.path")
    names = {identifier(item["id"]): str(item["name"]) for item in tree.get("categories", [])}
    by_image: dict[str | None, list[Shape]] = {identifier(image["id"]): [] for image in tree["images"]}
    without, thin = [], 0
    for item in tree["annotations"]:
        label = labels[one_form(names[identifier(item["category_id"])])]
        shape, dropped = _shape(item.get("segmentation"), label, item.get("iscrowd") in (1, "1"))
        thin += dropped
        if shape is None:
            without.append(f"annotation {item.get('id')}")
        else:
            by_image[identifier(item["image_id"])].append(shape)
    if without:
        raise UserError(
            f"{file}: {number_of(len(without), 'object')} without a segmentation: {listed(without, _SHOWN)}; export "
            "polygons or run-length encodings, or use task=detection"
        )
    if thin:
        notes.append(f"{file.name}: left out {number_of(thin, 'polygon')} of fewer than three points")
    return [tuple(shapes) for shapes in by_image.values()]


def _shape(value: Any, label: int, crowd: bool) -> tuple[Shape | None, int]:
    """The object that a segmentation describes, None if it is none; and how many polygons were left out."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if isinstance(counts, list) and all(type(count) is int for count in counts):
            counts = tuple(counts)
        if not isinstance(counts, str | tuple) or not counts or not isinstance(size, list) or len(size) != 2:
            return None, 0
        if not all(type(side) is int and 0 < side < 2**31 for side in size):
            return None, 0
        return Shape(label, runs=counts, size=(size[1], size[0]), crowd=crowd), 0
    if not isinstance(value, list) or not value:
        return None, 0
    polygons = [points_of(part) for part in (value if isinstance(value[0], list) else [value])]
    kept = tuple(polygon for polygon in polygons if polygon is not None)
    return Shape(label, polygons=kept, crowd=crowd), len(polygons) - len(kept)


def read_yolo_masks(file: Path) -> MaskFound:
    """Read a data set described by a data.yaml, with a polygon a line: `class x y x y ...` in fractions of the sides.

    Raises:
        UserError: as `read_yolo`; and lines that are boxes.
    """
    found = read_yolo(file)
    names, ground = _with_background(found.classes or (), file)
    labels = {name: label for label, name in enumerate(names)}
    outlines: dict[int, tuple[Shape, ...]] = {}
    errors: list[str] = []
    for entries in found.splits.values():
        for entry in entries:
            outlines[id(entry)] = _yolo_shapes(entry.file, found.classes or (), labels, errors)
    if errors:
        raise UserError(
            f"{number_of(len(errors), 'line')} without a polygon: {listed(errors, _SHOWN)}; a polygon needs at least "
            "three points, 'class x y x y x y'; for boxes use task=detection"
        )
    found.notes = [note for note in found.notes if "bounding box" not in note]
    return _converted(found, names, ground, outlines)


def _yolo_shapes(
    file: Path | None, names: Sequence[str], labels: dict[str, int], errors: list[str]
) -> tuple[Shape, ...]:
    """The polygons of a label file that `read_yolo` has accepted."""
    shapes = []
    for at, line in enumerate(read_text(file, "check data.path").splitlines() if file is not None else (), 1):
        if not line.strip():
            continue
        values = [number(word) for word in line.split()]
        points = points_of(values[1:])
        if points is None or values[0] is None:
            errors.append(f"{file}, line {at}")
        else:
            shapes.append(Shape(labels[names[int(values[0])]], polygons=(points,), fractions=True))
    return tuple(shapes)


def _with_background(classes: Sequence[str], place: Path) -> tuple[tuple[str, ...], int]:
    """The classes with a background, and its index."""
    for label, name in enumerate(classes):
        if name.strip().lower() == BACKGROUND:
            return tuple(classes), label
    if len(classes) >= MOST_CLASSES:
        raise UserError(f"{place} has {len(classes)} classes; masks may have {MOST_CLASSES}, with the background")
    return (BACKGROUND, *classes), 0


def _converted(
    found: BoxFound, classes: tuple[str, ...], ground: int, outlines: dict[int, tuple[Shape, ...]]
) -> MaskFound:
    """The images of a box reader with masks drawn from outlines."""
    hold_out(found)
    splits: dict[str, list[MaskEntry]] = {}
    for split, entries in found.splits.items():
        for entry in entries:
            stated = None if entry.fractions else entry.size
            mask = Shapes(entry.file or entry.source, outlines[id(entry)], ground, stated)
            splits.setdefault(split, []).append(MaskEntry(entry.name, entry.source, mask))
    return MaskFound(splits, classes, found.notes)
