"""`load_masks`: from the data section of the config to numbered, split records with masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.annotation_text import escaped, legible
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.entries import entries_for, listed, number_of
from vpt.data.detection.coco_files import find_coco
from vpt.data.detection.formats import yolo_file
from vpt.data.groups import shared_groups, with_groups
from vpt.data.segmentation.dataset import MaskFound, MaskRecord
from vpt.data.segmentation.known_layouts import is_ade20k, is_cityscapes, read_ade20k, read_cityscapes
from vpt.data.segmentation.mask_folders import mask_parts, read_mask_folders
from vpt.data.segmentation.mask_validation import validated
from vpt.data.segmentation.objects import read_coco_masks, read_yolo_masks
from vpt.data.segmentation.scenes import read_mask_scenes
from vpt.data.splits import divide, split_off
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError

LOOKED_FOR = (
    "images/ and masks/, images/ and annotations/ with training/ (ADE20K), leftImg8bit/ and gtFine/ (Cityscapes), "
    "JPEGImages/ and SegmentationClass/ (Pascal VOC), data.yaml (YOLO), annotations/instances_train.json (COCO)"
)


@legible()
def load_masks(config: DataConfig) -> LabelledData:
    """Read the data set named by `config.path`: folders of mask files, Cityscapes, ADE20K, Pascal VOC, COCO, YOLO, or
    the embedded scenes.

    Missing splits are split off training: validation always, test if `test_fraction` is given.

    Raises:
        UserError: data that cannot be found, a damaged file, or images whose masks cannot be used, with their names;
            with `config.on_bad` "skip" such records have a `defect`, and the data check leaves them out.

    >>> load_masks(DataConfig(path="no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no no/such/folder; check data.path
    """
    found = read_masks(config.path, config)
    for split, path in (("val", config.val), ("test", config.test)):
        if path is not None:
            other = read_masks(path, config)
            if unknown := [name for name in other.classes if name not in found.classes]:
                raise UserError(
                    f"data.{split}={path} has {number_of(len(unknown), 'class')} that data.path={config.path} lacks: "
                    f"{listed(unknown, 5)}; correct its list of classes"
                )
            other = other.with_classes(found.classes)
            found.splits[split] = entries_for(split, other.splits, path)
            found.notes += other.notes
    if not any(found.splits.values()):
        raise UserError(f"data.path={config.path} has no images")
    return _in_splits(validated(found, config), found, config)


def read_masks(path: str, config: DataConfig) -> MaskFound:
    """Read what names images, masks and classes of a data set; masks are not read yet, but where only their values tell
    the classes.

    Args:
        path: a folder, COCO's or YOLO's file, or "scenes".
        config: for `mask_classes`, `ignore_index` and `max_pixels`.

    Raises:
        UserError: it cannot be found, is in no known layout, or a file of it is damaged.
    """
    if path == "scenes":
        return read_mask_scenes()
    place = at_home(path)
    if not os.path.exists(place):
        raise UserError(f"there is no {path}; check data.path")
    if place.is_file():
        kind = place.suffix.lower()
        if kind not in (".json", ".yaml", ".yml"):
            raise UserError(f"data.path={path} is neither COCO's .json nor YOLO's .yaml; or give a folder")
        return read_coco_masks(place) if kind == ".json" else read_yolo_masks(place)
    layout = layout_of(place)
    if layout == "Cityscapes":
        return read_cityscapes(place, config)
    if layout == "ADE20K":
        return read_ade20k(place, config)
    if layout == "masks":
        return read_mask_folders(place, config)
    if layout == "YOLO":
        return read_yolo_masks(yolo_file(place))
    if layout == "COCO":
        return read_coco_masks(place)
    inner = [each for each in sorted(place.iterdir()) if each.is_dir() and layout_of(each) is not None]
    hint = f"; did you mean data={inner[0]}?" if inner else ""
    raise UserError(f"data.path={path} contains no masks in a known layout: no {LOOKED_FOR}{hint}")


def layout_of(folder: Path) -> str | None:
    """The layout of a folder: "Cityscapes", "ADE20K", "masks" (Pascal VOC's too), "YOLO" or "COCO"; None if it is
    unknown.

    >>> layout_of(Path("no/such")) is None
    True
    """
    if is_cityscapes(folder):
        return "Cityscapes"
    if is_ade20k(folder):
        return "ADE20K"
    if mask_parts(folder):
        return "masks"
    if yolo_file(folder).is_file():
        return "YOLO"
    return "COCO" if find_coco(folder) else None


def _in_splits(records: dict[str, list[MaskRecord]], found: MaskFound, config: DataConfig) -> LabelledData:
    train, val, test = (with_groups(list[Record](records.get(split, ())), config) for split in SPLITS)
    notes = [escaped(note) for note in found.notes]
    notes += shared_groups({"train": train, "val": val, "test": test})
    parts = divide(train, val, test, config, notes, _split_off)
    return LabelledData(found.classes, False, tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), tuple(notes))


def _split_off(
    records: Sequence[Record], fraction: float, seed: int, purpose: int
) -> tuple[list[Record], list[Record]]:
    """Like `split_off`; but where every image is the only one with its rarest class, any of them may be chosen."""
    kept, off = split_off(records, fraction, seed, purpose)
    if off:
        return kept, off
    _, chosen = split_off([replace(record, labels=()) for record in records], fraction, seed, purpose)
    names = {record.name for record in chosen}
    return [one for one in records if one.name not in names], [one for one in records if one.name in names]
