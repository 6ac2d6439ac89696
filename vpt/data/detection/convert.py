"""Converts a detection data set to another format, copying the images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from vpt.data.annotation_text import one_form
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets.entries import listed, number_of
from vpt.data.detection.coco import to_coco
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.voc import is_too_thin, to_voc
from vpt.data.detection.yolo import to_yolo
from vpt.utils.atomic_io import make_folder, write_json, write_text
from vpt.utils.errors import UserError
from vpt.utils.file_names import as_utf8, one_line, shown

FORMATS = ("coco", "voc", "yolo")


def convert(data: LabelledData, folder: Path, form: str) -> Path:
    """Write `data` to a new `folder` as coco, voc or yolo, completely or not at all. Only COCO supports crowds:
    `left_out` lists those that were omitted, and boxes that are too thin for VOC.

    Raises:
        UserError: a folder that exists, an unknown format, an image that cannot be read, or a full disk.

    >>> convert(LabelledData((), False, (), ()), Path("."), "coco")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: . exists and is not overwritten; name a new folder
    """
    if form not in FORMATS:
        raise UserError(f"format {form} does not exist; known: {', '.join(FORMATS)}")
    if folder.exists():
        raise UserError(f"{folder} exists and is not overwritten; name a new folder")

    def fill(new: Path) -> None:
        for split in SPLITS:
            records = [record for record in data.split(split) if isinstance(record, BoxRecord)]
            if records:
                {"coco": _coco, "voc": _voc, "yolo": _yolo}[form](records, data.classes, new, split)
        if form == "yolo":
            tree = {split: f"images/{split}" for split in SPLITS if data.split(split)}
            text = yaml.safe_dump({**tree, "names": dict(enumerate(data.classes))}, sort_keys=False, allow_unicode=True)
            write_text(new / "data.yaml", text)

    if not make_folder(folder, fill):
        raise UserError(f"{folder} exists and is not overwritten; name a new folder")
    return folder


def left_out(data: LabelledData, form: str) -> list[str]:
    """Messages about boxes that a format cannot represent: crowds, except in COCO, and boxes of one pixel in VOC.

    >>> left_out(LabelledData((), False, (), ()), "yolo")
    []
    """
    records = [record for split in SPLITS for record in data.split(split) if isinstance(record, BoxRecord)]
    crowded = [record for record in records if any(record.crowds)]
    notes = []
    if form == "voc" and (thin := [record.name for record in records for box in record.boxes if is_too_thin(box)]):
        notes.append(
            f"left out {number_of(len(thin), 'box')} at most one pixel wide or high, which voc cannot represent: "
            f"{listed(thin, 5)}"
        )
    if form == "coco" or not crowded:
        return notes
    names = listed([record.name for record in crowded], 5)
    count = sum(sum(record.crowds) for record in crowded)
    notes.append(f"left out {number_of(count, 'crowd')}, which {form} cannot distinguish from single objects: {names}")
    empty = [record.name for record in crowded if all(record.crowds)]
    if empty:
        notes.append(f"{number_of(len(empty), 'image')} had only crowds and has no boxes now: {listed(empty, 5)}")
    return notes


def _copied(records: Sequence[BoxRecord], folder: Path, without: str = "\\") -> list[str]:
    """Copy images to `folder` and return their names, with unique stems because annotations are named after them.
    Characters of `without`, and invisible ones, become "_"."""
    folder.mkdir(parents=True, exist_ok=True)
    stems = {one_form(path.stem).lower() for path in folder.iterdir()}
    names = []
    for record in records:
        source = record.source
        assert isinstance(source, Path)
        # Annotations list file names, one per line, in UTF-8; two names that differ only in their Unicode form are the
        # same file on some disks.
        name = one_form(one_line(as_utf8(source.stem)))
        plain = "".join("_" if sign in without or not sign.isprintable() else sign for sign in name).strip() or "image"
        stem, number = plain, 1
        while stem.lower() in stems:
            number += 1
            stem = f"{plain}-{number}"
        stems.add(stem.lower())
        names.append(f"{stem}{one_line(as_utf8(source.suffix))}")
        try:
            shutil.copyfile(source, folder / names[-1])
        except (FileNotFoundError, PermissionError) as error:
            if error.filename != str(source):
                raise
            raise UserError(f"cannot read {shown(source)}: {error.strerror}") from None
    return names


def _coco(records: Sequence[BoxRecord], classes: Sequence[str], folder: Path, split: str) -> None:
    names = _copied(records, folder / "images" / split)
    write_json(folder / "annotations" / f"instances_{split}.json", to_coco(records, classes, names))


def _yolo(records: Sequence[BoxRecord], classes: Sequence[str], folder: Path, split: str) -> None:
    for record, name in zip(records, _copied(records, folder / "images" / split), strict=True):
        write_text((folder / "labels" / split / name).with_suffix(".txt"), to_yolo(record))


def _voc(records: Sequence[BoxRecord], classes: Sequence[str], folder: Path, split: str) -> None:
    stems = []
    for record, name in zip(records, _copied(records, folder / "JPEGImages", "\\ "), strict=True):
        stems.append(Path(name).stem)
        write_text(folder / "Annotations" / f"{stems[-1]}.xml", to_voc(record, classes, name))
    write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
