"""Cityscapes and ADE20K (the scene parsing benchmark), as their archives unpack."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.datasets.entries import number_of
from vpt.data.datasets.image_folder import images_below
from vpt.data.detection.split_names import list_lines
from vpt.data.segmentation.class_lists import ClassList, checked_names
from vpt.data.segmentation.dataset import IGNORE, MaskFound
from vpt.data.segmentation.mask_files import ValueTable
from vpt.data.segmentation.mask_folders import classes_of, entries, paired
from vpt.utils.errors import UserError

# The 19 classes that are evaluated, by the value in *_labelIds.png; every other value is ignored.
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_SPLITS = ("train", "val", "test")


def is_cityscapes(folder: Path) -> bool:
    """Whether a folder has the layout of Cityscapes.

    >>> is_cityscapes(Path("no/such"))
    False
    """
    return (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir()


def read_cityscapes(folder: Path, config: DataConfig) -> MaskFound:
    """Read `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png` with `gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png`, or
    `..._labelTrainIds.png` where these do not exist. The published masks of the test images are blank: they are left
    out.

    Raises:
        UserError: no images.
    """
    found = MaskFound(remedy="unpack gtFine_trainvaltest.zip in the same folder")
    ids = next((kind for kind in ("labelIds", "labelTrainIds") if any(_masks(folder, kind))), "labelIds")
    values = {value: label for label, value in enumerate(_CITYSCAPES)}
    if ids == "labelTrainIds":
        values = dict(enumerate(range(len(_CITYSCAPES))))
    ignored = dict.fromkeys((value for value in range(256) if value not in values), IGNORE)
    classes = ClassList(tuple(_CITYSCAPES.values()), ValueTable(values | ignored))
    if config.mask_classes is not None:
        classes = classes_of(folder, config, (), found.notes)
    found.classes = classes.names
    for split in _SPLITS:
        top = folder / "leftImg8bit" / split
        images = images_below(top, Counter()) if top.is_dir() else []
        if split == "test" and images:
            found.notes.append(
                f"left out {number_of(len(images), 'test image')}: Cityscapes keeps their masks to itself"
            )
            continue
        masks: dict[Path, Path | None] = {}
        for image in images:
            stem = image.stem.removesuffix("_leftImg8bit")
            mask = folder / "gtFine" / image.parent.relative_to(folder / "leftImg8bit") / f"{stem}_gtFine_{ids}.png"
            masks[image] = mask if mask.is_file() else None
        if images:
            found.splits[split] = entries(images, masks, folder, classes.table)
    if not found.splits:
        raise UserError(f"{folder}/leftImg8bit contains no images of train or val")
    return found


def _masks(folder: Path, ids: str) -> list[Path]:
    return sorted((folder / "gtFine").glob(f"*/*/*_gtFine_{ids}.png"))


def is_ade20k(folder: Path) -> bool:
    """Whether a folder has the layout of ADE20K's scene parsing benchmark (ADEChallengeData2016).

    >>> is_ade20k(Path("no/such"))
    False
    """
    return all((folder / kind / "training").is_dir() for kind in ("images", "annotations"))


def read_ade20k(folder: Path, config: DataConfig) -> MaskFound:
    """Read `images/` and `annotations/`, each with `training/` and `validation/`: value 0 is ignored, 1 to 150 are the
    classes named by `objectInfo150.txt`.

    Raises:
        UserError: no images.
    """
    found = MaskFound(remedy="unpack annotations/ next to images/")
    info = folder / "objectInfo150.txt"
    names = [f"class_{value}" for value in range(1, 151)]
    if info.is_file():
        rows = [line.split("\t") for line in list_lines(info)[1:]]
        if any(len(row) < 5 for row in rows):
            raise UserError(f"{info} must have a tab between its columns Idx, Ratio, Train, Val, Name")
        names = [row[4].split(",")[0] for row in rows]
        repeated = {name for name in names if names.count(name) > 1}
        names = [f"{name} ({number})" if name in repeated else name for number, name in enumerate(names, 1)]
    table = ValueTable({0: IGNORE, 255: IGNORE, **{value: value - 1 for value in range(1, len(names) + 1)}})
    classes = ClassList(checked_names(names, info), table)
    if config.mask_classes is not None:
        classes = classes_of(folder, config, (), found.notes)
    found.classes = classes.names
    for split, name in (("train", "training"), ("val", "validation"), ("test", "testing")):
        top, masks = folder / "images" / name, folder / "annotations" / name
        if top.is_dir() and masks.is_dir():
            images = images_below(top, Counter())
            found.splits[split] = entries(images, paired(images, top, masks, found.notes), folder, classes.table)
    return found
