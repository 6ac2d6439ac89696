"""`load_boxes`: from the data section of the config to numbered, split records with boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice

from vpt.config import DataConfig
from vpt.data.annotation_text import escaped, legible
from vpt.data.class_names import visible
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets.entries import clean_names, entries_for, listed, number_of
from vpt.data.detection.box_validation import unique_images, within_images
from vpt.data.detection.coco import read_coco
from vpt.data.detection.coco_files import coco_files, dataset_folder, unsplit_note
from vpt.data.detection.darknet import find_darknet, read_darknet
from vpt.data.detection.dataset import BoxEntry, BoxFound, BoxRecord
from vpt.data.detection.formats import COCO, DARKNET, VOC, YOLO, layout_of, not_known, yolo_file
from vpt.data.detection.held_out import hold_out
from vpt.data.detection.image_sizes import MISSING, placed
from vpt.data.detection.synthetic_scenes import read_scenes
from vpt.data.detection.voc import read_voc
from vpt.data.detection.yolo import read_yolo
from vpt.data.groups import shared_groups, with_groups
from vpt.data.splits import divide, split_off
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError


def load_boxes(config: DataConfig) -> LabelledData:
    """Read the data set named by `config.path`: COCO, Pascal VOC, YOLO, or the embedded scenes.

    Missing splits are split off training: validation always, test if `test_fraction` is given. A data set without
    training images can only be used for evaluation.

    Raises:
        UserError: data that cannot be found, or a damaged file, with its name. Images that are missing or whose size
            differs from the annotation are listed, unless `config.on_bad` is "skip": then their records have a
            `defect`, and the data check leaves them out.

    >>> load_boxes(DataConfig(path="no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no no/such/folder; check data.path
    """
    return numbered(read_boxes(config)[0], config)


def read_boxes(config: DataConfig) -> tuple[BoxFound, list[BoxFound]]:
    """Read the data named by `config`, with boxes in pixels of the upright images, not yet numbered or split; also
    return the contents of each of data.path, data.val and data.test.

    Raises:
        UserError: as in `load_boxes`.
    """
    found = read_place(config.path)
    hold_out(found)
    sources = [found]
    for split, path in (("val", config.val), ("test", config.test)):
        if path is not None:
            other = read_place(path)
            found.splits[split] = entries_for(split, other.splits, path)
            found.notes += other.notes
            sources.append(other)
    clean_names(found)
    found.splits = finished(found.splits, config, found.notes)
    return found, sources


@legible()
def read_place(path: str) -> BoxFound:
    """Read the annotations of a data set. No image is opened: sizes and paths of images are not checked.

    Args:
        path: a folder, an annotation file, or "scenes".

    Raises:
        UserError: it cannot be found, or a file of it is damaged, with its name.
    """
    if path == "scenes":
        return read_scenes()
    place = at_home(path)
    if not os.path.exists(place):
        raise UserError(f"there is no {path}; check data.path")
    if os.path.isfile(place):
        if place.suffix.lower() == ".json":
            return read_coco({"train": place}, dataset_folder(place))
        if place.suffix.lower() in (".yaml", ".yml"):
            return read_yolo(place)
        if place.suffix.lower() == ".data":
            return read_darknet(place, place.parent)
        raise UserError(f"data.path={path} is neither COCO's .json nor YOLO's .yaml; or give a folder")
    layout = layout_of(place)
    if layout == YOLO:
        return read_yolo(yolo_file(place))
    if layout == VOC:
        return read_voc(place)
    if layout == COCO:
        found = read_coco(coco_files(place), place)
        found.notes += unsplit_note(place, found.read)
        return found
    if layout == DARKNET and (file := find_darknet(place)) is not None:
        return read_darknet(file, place)
    raise UserError(not_known(path, place))


@legible()
def finished(
    splits: Mapping[str, Sequence[BoxEntry]], config: DataConfig, notes: list[str]
) -> dict[str, list[BoxEntry]]:
    """Splits in which each image occurs once, with boxes in pixels of the upright image, clipped to it.

    Args:
        splits: as annotated.
        config: for the maximum size of images, and the handling of those that cannot be used.
        notes: list to which messages for the user are appended.

    Raises:
        UserError: an image in two splits; images that are missing or whose size differs from the annotation, unless
            `config.on_bad` is "skip".
    """
    single = unique_images(splits, notes)
    entries = [entry for split in single.values() for entry in split]
    entries = within_images(placed(entries, config.max_pixels, notes), notes)
    if config.on_bad == "error":
        _refuse_unusable(entries)
    rest = iter(entries)
    return {split: list(islice(rest, len(single[split]))) for split in single}


def _refuse_unusable(entries: Sequence[BoxEntry]) -> None:
    """Refuse images that are missing or whose size differs from the annotation, all of them in one message."""
    missing = [entry for entry in entries if entry.defect == MISSING]
    other = [entry for entry in entries if entry.defect not in ("", MISSING)]
    parts, remedies = [], []
    if missing:
        parts.append(f"{number_of(len(missing), 'image')} cannot be found: {listed([_named(one) for one in missing])}")
        remedies.append("correct the paths")
    if other:
        names = listed([f"{visible(entry.name)} ({entry.defect})" for entry in other])
        parts.append(
            f"{number_of(len(other), 'image')} whose size differs from the annotation, so that the boxes would be "
            f"wrong: {names}"
        )
        remedies.append("use the files that were annotated")
    if parts:
        raise UserError(
            f"{'; '.join(parts)}; {' and '.join(remedies)}, or set data.on_bad=skip to leave such images out"
        )


def _named(entry: BoxEntry) -> str:
    """The name of an image in its annotation file, with the name of that file."""
    if entry.file is None:
        return visible(entry.name)
    return f"{visible(entry.name.removeprefix(f'{entry.file.stem}/'))} ({entry.file.name})"


def numbered(found: BoxFound, config: DataConfig) -> LabelledData:
    """Convert what was read to records, in the splits requested by `config`.

    Raises:
        UserError: no boxes to train on, classes without training boxes, or too few images to split.
    """
    classes = _classes(found, config.path)
    notes = [escaped(note) for note in found.notes]
    numbers = {name: number for number, name in enumerate(classes)}
    train, val, test = (
        with_groups(to_records(found.splits.get(split, ()), split, numbers), config) for split in SPLITS
    )
    notes += shared_groups({"train": train, "val": val, "test": test})

    def part(
        records: Sequence[BoxRecord], fraction: float, seed: int, purpose: int
    ) -> tuple[list[BoxRecord], list[BoxRecord]]:
        return split_off(records, fraction, seed, purpose, _usable(records))

    parts = divide(train, val, test, config, notes, part, _usable)
    return LabelledData(classes, False, tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), tuple(notes))


def _usable(records: Sequence[BoxRecord]) -> Sequence[BoxRecord]:
    """Records whose images can be used as far as known; all if fewer than two can."""
    usable = [record for record in records if record.size != (0, 0) and not record.problem()]
    return usable if len(usable) > 1 else records


def _classes(found: BoxFound, path: str) -> tuple[str, ...]:
    train = found.splits.get("train", [])
    if not any(found.splits.values()):
        raise UserError(f"data.path={path} has no training images")
    deciding = train or [entry for entries in found.splits.values() for entry in entries]
    classes = found.classes or tuple(sorted({raw.label for entry in deciding for raw in entry.boxes}))
    if not classes or not any(entry.boxes for entry in deciding):
        what = "its training images" if train else "its images"
        raise UserError("; ".join([f"data.path={path} has no boxes in {what}", *found.notes]))
    return classes


@legible()
def to_records(entries: Sequence[BoxEntry], split: str, numbers: Mapping[str, int]) -> list[BoxRecord]:
    """Convert entries with boxes in pixels of the upright images to records.

    Args:
        entries: of one split.
        split: its name.
        numbers: class indices by name.

    Raises:
        UserError: a box of another class.
    """
    unknown = sorted({raw.label for entry in entries for raw in entry.boxes} - set(numbers))
    if unknown:
        names = listed([visible(label) for label in unknown])
        raise UserError(
            f"the {split} boxes have {number_of(len(unknown), 'class')} that training lacks: {names}; add training "
            "images of them, or correct the labels"
        )
    return [
        BoxRecord(
            escaped(entry.name).replace("\n", "\\n"),
            entry.source,
            tuple(numbers[raw.label] for raw in entry.boxes),
            tuple(raw.box for raw in entry.boxes),
            tuple(raw.crowd for raw in entry.boxes),
            entry.size or (0, 0),
            _areas(entry),
            entry.defect,
        )
        for entry in entries
    ]


def _areas(entry: BoxEntry) -> tuple[float, ...]:
    """The annotated area of each object, or else that of its box; empty if none is annotated."""
    if all(raw.area is None for raw in entry.boxes):
        return ()
    return tuple(
        raw.area if raw.area is not None else (raw.box[2] - raw.box[0]) * (raw.box[3] - raw.box[1])
        for raw in entry.boxes
    )
