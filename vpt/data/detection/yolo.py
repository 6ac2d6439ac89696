"""YOLO: a data.yaml with the splits and class names, and a text file of normalised boxes for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpt.data.datasets.entries import listed, number_of
from vpt.data.detection.dataset import BoxEntry, BoxFound, BoxRecord
from vpt.data.detection.split_names import lists_in
from vpt.data.detection.yolo_images import Places
from vpt.data.detection.yolo_labels import label_file, read_labels
from vpt.data.detection.yolo_yaml import read_description
from vpt.data.file_lookup import Files
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown

_MOST_ERRORS = 10
NO_LABELS = frozenset({"classes", "readme", "requirements", "license", "notes", "labels", "predefined_classes"})


def read_yolo(file: Path) -> BoxFound:
    """Read a data set described by a data.yaml: `path` (optional), `train`, `val`, `test`, `names`, `kpt_shape`.

    A split is a folder of images, a text file that lists images, or a list of these. An image without a label file has
    no boxes. Poses and polygons are reduced to their bounding boxes.

    Raises:
        UserError: a file that is missing or has an invalid line, with its name.
    """
    said = read_description(file)
    root = file.parent / said.path if said.path else file.parent
    found = BoxFound(classes=said.names, folder=file.parent, read={file}, notes=list(said.notes))
    if not os.path.isdir(root):  # Path.is_dir raises for invalid names
        found.notes.append(f"{file.name} has path: {said.path}, which does not exist; using its own folder instead")
        root = file.parent
    places = Places([root, file.parent], Files())
    images: dict[str, list[Path]] = {}
    for split, texts in said.places.items():
        images[split] = []
        for text in texts:
            place = places.find(text)
            if place is None and split == "train":
                raise UserError(f"{file}: there is no folder or list {root / text}; correct 'train:'")
            if place is None:
                found.notes.append(f"{file.name} has {split}: {text}, which does not exist")
                continue
            images[split] += places.images(place)
            if split == "train" and place.is_dir():
                found.tops.append(place)
        if not images[split]:
            if split == "train":
                raise UserError(f"{file}: train: {listed(texts, 3)} contains no images below {root}")
            del images[split]
    if not said.places:
        images = {split: paths for split, paths in places.undescribed(root).items() if paths}
        found.tops += [root / "images", root]
        found.notes.append(f"{file.name} names no splits; add train:, val: and test: if this is wrong")
    if not images:
        raise UserError(f"{file} names no existing images; add 'train: images/train'")
    read_images(images, said.names, said.keypoints, places, found)
    return found


def read_images(
    images: dict[str, list[Path]], names: Sequence[str], keypoints: int | None, places: Places, found: BoxFound
) -> None:
    """Read the label files of images into `found`.

    Raises:
        UserError: invalid lines, by file and line.
    """
    root = places.roots[0]
    counts = {"poses": 0, "polygons": 0, "lines with an additional number (a track or a confidence)": 0}
    owners: dict[Path, list[Path]] = {}
    errors: list[str] = []
    for split, paths in images.items():
        entries = found.splits.setdefault(split, [])
        for image in paths:
            file = label_file(image, root, places.files)
            labels = None
            if file is not None:
                owners.setdefault(file, []).append(image)
                try:
                    labels = read_labels(file, names, keypoints)
                except UserError as error:
                    errors.append(str(error))
                    continue
                for key, count in zip(counts, labels[1:], strict=True):
                    counts[key] += count
            boxes = labels.boxes if labels is not None else ()
            name = shown(image.relative_to(root) if image.is_relative_to(root) else image)
            entries.append(BoxEntry(name, image, boxes, None, file, fractions=True))
    if errors:
        more = f"\nand {len(errors) - _MOST_ERRORS} more label files" if len(errors) > _MOST_ERRORS else ""
        raise UserError("\n".join(errors[:_MOST_ERRORS]) + more)
    found.read |= {*owners, *places.lists}
    found.orphans += _orphans(owners, places)
    found.notes += places.notes()
    found.notes += [f"used the bounding boxes of {count} {what}" for what, count in counts.items() if count]
    shared = [file.name for file, of in owners.items() if len(set(of)) > 1]
    if shared:
        found.notes.append(
            f"{number_of(len(shared), 'label file')} of several images that differ only in the extension: "
            f"{listed(shared, 5)}"
        )
    if images.get("train") and not owners:
        sought = shown(images["train"][0].parent)
        found.notes.append(f"no label files were found for the images of {sought}, in labels/ or next to them")


def _orphans(owners: dict[Path, list[Path]], places: Places) -> list[Path]:
    """Label files without image, in the folders that contain label files of images."""
    left = []
    for folder in sorted({file.parent for file in owners}):
        special = set(places.lists) | {file for files in lists_in(folder).values() for file in files}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() == ".txt" and file not in owners and file not in special and _is_label(file, places):
                left.append(file)
    return left


def _is_label(file: Path, places: Places) -> bool:
    return file.name.lower().partition(".")[0] not in NO_LABELS and not places.files.images(file.parent, file.stem)


def to_yolo(record: BoxRecord) -> str:
    """The label file of a record. Crowds are left out, because YOLO has none.

    >>> to_yolo(BoxRecord("a", Path("a.png"), (0,), ((1.0, 2.0, 3.0, 6.0),), (False,), (8, 8)))
    '0 0.25 0.5 0.25 0.5\\n'
    """
    width, height = record.size
    lines = []
    for label, (x1, y1, x2, y2), crowd in zip(record.labels, record.boxes, record.crowds, strict=True):
        if not crowd:
            numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(label), *(f"{number:.8g}" for number in numbers)]) + "\n")
    return "".join(lines)
