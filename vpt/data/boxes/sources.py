"""`load_boxes`: from the data section of the configuration to numbered, split records with boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.boxes.coco import find_coco, read_coco
from vpt.data.boxes.layouts import COCO, VOC, YOLO, layout_of, yolo_file
from vpt.data.boxes.records import BoxEntry, BoxFound, BoxRecord, mended
from vpt.data.boxes.scenes import read_scenes
from vpt.data.boxes.voc import read_voc
from vpt.data.boxes.yolo import read_yolo
from vpt.data.entries import listed, number_of
from vpt.data.records import LabelledData, Record
from vpt.data.splits import TEST, draw_shots, set_apart, split_off
from vpt.errors import UserError
from vpt.files import at_home
from vpt.names import one_line


def load_boxes(config: DataConfig) -> LabelledData:
    """Read the data set that `config.path` names: COCO, Pascal VOC, YOLO, or the embedded scenes.

    Splits that are missing are split off training: validation always, test if `test_fraction` is given.

    Raises:
        UserError: data that cannot be found, or a file of it that is damaged, named.

    >>> load_boxes(DataConfig(path="no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.errors.UserError: there is no no/such/folder; check data.path
    """
    found = _read(config.path, config.max_pixels)
    for split, path in (("val", config.val), ("test", config.test)):
        if path is not None:
            other = _read(path, config.max_pixels)
            entries = other.splits.get(split) or other.splits.get("train")
            if entries is None:
                there = listed(sorted(other.splits))
                raise UserError(f"data.{split}={path} lists {there} images alone, none for {split}")
            found.splits[split] = entries
            found.notes += other.notes
    _clean_names(found)
    found.splits = {split: mended(entries, found.notes) for split, entries in found.splits.items()}
    _refuse_shared(found.splits)
    classes = _classes(found, config.path)
    notes = list(found.notes)
    numbers = {name: number for number, name in enumerate(classes)}
    train, val, test = (_numbered(found.splits.get(split, ()), split, numbers) for split in ("train", "val", "test"))
    records: Sequence[Record] = train
    if not test and config.test_fraction is not None:
        records, off = split_off(records, config.test_fraction, config.split_seed, TEST)
        test = [record for record in off if isinstance(record, BoxRecord)]
        notes.append(
            f"split {number_of(len(test), 'image')} off for test (data.test_fraction={config.test_fraction:g})"
        )
    if not val:
        records, off = split_off(records, config.val_fraction, config.split_seed)
        val = [record for record in off if isinstance(record, BoxRecord)]
        notes.append(
            f"split {number_of(len(val), 'image')} off for validation (data.val_fraction={config.val_fraction:g}, "
            f"data.split_seed={config.split_seed})"
        )
    if not val:
        raise UserError(f"data.path={config.path} has too few images to split validation off; give data.val")
    if config.shots is not None:
        records, _ = draw_shots(records, config.shots, config.split_seed)
    parts = set_apart(records, val, test, config)
    return LabelledData(classes, False, tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), tuple(notes))


def _read(path: str, max_pixels: int) -> BoxFound:
    if path == "scenes":
        return read_scenes()
    place = at_home(path)
    if not os.path.exists(place):
        raise UserError(f"there is no {path}; check data.path")
    if os.path.isfile(place):
        if place.suffix.lower() == ".json":
            return read_coco({"train": place})
        if place.suffix.lower() in (".yaml", ".yml"):
            return read_yolo(place, max_pixels)
        raise UserError(f"data.path={path} is neither COCO's .json nor YOLO's .yaml; or give a folder")
    layout = layout_of(place)
    if layout == YOLO:
        return read_yolo(yolo_file(place), max_pixels)
    if layout == VOC:
        return read_voc(place, max_pixels)
    if layout == COCO:
        return read_coco(find_coco(place))
    raise UserError(
        f"data.path={path} holds no boxes that are known: no data.yaml (YOLO), no Annotations/*.xml (Pascal VOC), no "
        "annotations/instances_train.json or train/_annotations.coco.json (COCO)"
    )


def _clean_names(found: BoxFound) -> None:
    """Names of images and classes come from files of others: what cannot be printed or encoded is escaped here."""
    if found.classes is not None:
        found.classes = tuple(map(one_line, found.classes))
    for entries in found.splits.values():
        entries[:] = [
            entry._replace(
                name=one_line(entry.name),
                boxes=tuple(raw._replace(label=one_line(raw.label)) for raw in entry.boxes),
            )
            for entry in entries
        ]


def _classes(found: BoxFound, path: str) -> tuple[str, ...]:
    train = found.splits.get("train", [])
    if not train:
        raise UserError(f"data.path={path} has no training images")
    classes = found.classes or tuple(sorted({raw.label for entry in train for raw in entry.boxes}))
    if not classes or not any(entry.boxes for entry in train):
        raise UserError("; ".join([f"data.path={path} has no boxes in its training images", *found.notes]))
    return classes


def _numbered(entries: Sequence[BoxEntry], split: str, numbers: dict[str, int]) -> list[BoxRecord]:
    unknown = sorted({raw.label for entry in entries for raw in entry.boxes} - set(numbers))
    if unknown:
        raise UserError(
            f"the {split} boxes have {number_of(len(unknown), 'class')} that training lacks: {listed(unknown)}"
        )
    return [
        BoxRecord(
            entry.name,
            entry.source,
            tuple(numbers[raw.label] for raw in entry.boxes),
            tuple(raw.box for raw in entry.boxes),
            tuple(raw.crowd for raw in entry.boxes),
            entry.size,
        )
        for entry in entries
    ]


def _refuse_shared(splits: dict[str, list[BoxEntry]]) -> None:
    owners: dict[Path, str] = {}
    for split, entries in splits.items():
        for entry in entries:
            before = owners.setdefault(entry.source.resolve(), split)
            if before != split:
                raise UserError(f"{entry.source} is in {before} and in {split}, which makes the score worthless")
