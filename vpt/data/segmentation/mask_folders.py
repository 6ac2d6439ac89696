"""Folders of images and of mask files with the same names: images/ and masks/, and Pascal VOC's SegmentationClass/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpt.config import DataConfig
from vpt.data.annotation_text import one_form
from vpt.data.datasets.entries import listed, number_of
from vpt.data.datasets.image_folder import images_below
from vpt.data.detection.split_names import list_lines, lists_in, split_named
from vpt.data.image_cache import threads
from vpt.data.segmentation.class_lists import ClassList, class_file, numbered, read_class_list
from vpt.data.segmentation.dataset import IGNORE, MaskEntry, MaskFound
from vpt.data.segmentation.mask_files import SUFFIXES, MaskFile, ValueTable, mask_size, read_raw
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown

IMAGES = ("images", "Images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "Masks", "mask", "SegmentationClass", "labels", "annotations", "segmentations")
# What tools append to the name of an image to name its mask.
_ENDS = ("", "_mask", "-mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt")
_LIST_PLACES = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", ".")
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Part(NamedTuple):
    """A folder of images, that of their masks, and the split that they are named after, or None."""

    images: Path
    masks: Path
    split: str | None


def mask_parts(folder: Path) -> list[Part]:
    """The folders of a data set: `images/` and `masks/`, with or without `train/`, `val/`, ... inside both; or both in
    each of `train/`, `val/`, ...

    >>> mask_parts(Path("no/such"))
    []
    """
    pair = _pair(folder)
    if pair is not None:
        inner = [(place, split_named(place.name)) for place in _folders(pair[0])]
        parts = [Part(place, pair[1] / place.name, split) for place, split in inner if split is not None]
        return parts or [Part(*pair, None)]
    found = [(_pair(place), split_named(place.name)) for place in _folders(folder)]
    return [Part(*pair, split) for pair, split in found if pair is not None and split is not None]


def read_mask_folders(folder: Path, config: DataConfig) -> MaskFound:
    """Read a data set of images and mask files with the same names, in any folder that `mask_parts` finds.

    Splits are those of the folders, else those of lists such as `ImageSets/Segmentation/train.txt`; else all images are
    for training.

    Raises:
        UserError: no images, a list that names others, or masks whose classes are unclear.
    """
    parts = mask_parts(folder)
    found = MaskFound()
    files: dict[Path, Path | None] = {}
    splits: dict[str, list[Path]] = {}
    for part in parts:
        images = images_below(part.images, Counter())
        files |= paired(images, part.images, part.masks, found.notes)
        splits.setdefault(part.split or "train", []).extend(images)
    if not files:
        raise UserError(f"{parts[0].images if parts else folder} contains no images")
    if all(part.split is None for part in parts):
        splits = _by_lists(folder, parts[0].images, splits["train"], found.notes)
    else:
        found.notes += _outside(folder, parts)
    default = ClassList(_VOC, ValueTable({**dict(zip(range(21), range(21), strict=True)), 255: IGNORE}))
    is_voc = parts[0].masks.name == "SegmentationClass" and (folder / "ImageSets").is_dir()
    used = [mask for paths in splits.values() for path in paths if (mask := files[path]) is not None]
    classes = classes_of(folder, config, used, found.notes, default if is_voc else None)
    found.classes = classes.names
    found.remedy = f"add masks of the same names, as in {shown(parts[0].masks)}/NAME.png"
    for split, paths in splits.items():
        found.splits[split] = entries(paths, files, folder, classes.table)
    return found


def entries(images: Iterable[Path], masks: dict[Path, Path | None], folder: Path, table: ValueTable) -> list[MaskEntry]:
    """Entries of images, named relative to the data set's folder, with their mask files."""
    found = []
    for image in images:
        mask = masks.get(image)
        name = shown(image.relative_to(folder) if image.is_relative_to(folder) else image)
        found.append(MaskEntry(name, image, None if mask is None else MaskFile(mask, table)))
    return found


def paired(images: Sequence[Path], images_top: Path, masks_top: Path, notes: list[str]) -> dict[Path, Path | None]:
    """The mask file of each image: at the same place below its folder, with the same name apart from the extension and
    perhaps an end such as `_mask`. Masks without image are reported in `notes`.

    Raises:
        UserError: several masks for one image.
    """
    there: dict[str, list[Path]] = {}
    for path in images_below(masks_top, Counter()) if masks_top.is_dir() else ():
        if path.suffix.lower() in SUFFIXES:
            there.setdefault(_key(path, masks_top), []).append(path)
    found: dict[Path, Path | None] = {}
    used: set[str] = set()
    several = []
    for image in images:
        key = _key(image, images_top)
        keys = [key + end for end in _ENDS if key + end in there]
        used.update(keys)
        choices = [path for one in keys for path in there[one]]
        if len(choices) > 1:
            several.append(f"{image.name} ({', '.join(path.name for path in choices[:3])})")
        found[image] = choices[0] if choices else None
    if several:
        raise UserError(
            f"{number_of(len(several), 'image')} with more than one mask in {masks_top}: {listed(several, 5)}; keep one"
        )
    if left := sorted(set(there) - used):
        names = listed([there[key][0].name for key in left], 5)
        notes.append(f"warning: {number_of(len(left), 'mask')} without an image in {images_top}: {names}")
    return found


def classes_of(
    folder: Path, config: DataConfig, masks: Sequence[Path], notes: list[str], default: ClassList | None = None
) -> ClassList:
    """The classes of mask files: as given by data.mask_classes, else by a file of the data set, else those of its
    layout, else from the values that occur.

    Raises:
        UserError: a list that cannot be read, or values that are no class indices.
    """
    ignore = IGNORE if config.ignore_index is None else config.ignore_index
    file = class_file(folder) if config.mask_classes is None else at_home(config.mask_classes)
    if file is not None:
        found = read_class_list(file, ignore)
        two = len(found.names) == 2 and config.ignore_index is None and not found.table.colors
        if two and set(values_of(masks[:50], config.max_pixels)) == {0, IGNORE}:
            notes.append(f"the masks of {folder} have the values 0 and 255: {' and '.join(found.names)}")
            return ClassList(found.names, ValueTable({0: 0, IGNORE: 1}))
        return found
    if default is not None:
        return default
    return numbered(values_of(masks, config.max_pixels), config.ignore_index, notes, str(folder))


def values_of(masks: Sequence[Path], max_pixels: int) -> list[int]:
    """The values that occur in mask files, in order; files that cannot be read are left to the validation.

    Raises:
        UserError: a mask in colour, whose classes nothing tells.
    """

    def one(path: Path) -> list[int]:
        try:
            raw = read_raw(path, mask_size(path, max_pixels))
        except UserError as error:
            if "data.mask_classes" in str(error):
                raise
            return []
        return [int(value) for value in np.unique(raw)]

    with ThreadPoolExecutor(threads()) as pool:
        return sorted({value for values in pool.map(one, masks) for value in values})


def _key(path: Path, top: Path) -> str:
    return one_form(path.relative_to(top).with_suffix("").as_posix())


def _pair(folder: Path) -> tuple[Path, Path] | None:
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), None)
    if images is None:
        return None
    masks = (folder / name for name in MASKS if (folder / name).is_dir())
    return next(((images, place) for place in masks if any(_mask_files(place))), None)


def _mask_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir()) if folder.is_dir() else []


def _outside(folder: Path, parts: Sequence[Part]) -> list[str]:
    """Messages about images next to the folders of the splits."""
    tops = {part.images.parent for part in parts if part.images.parent != folder}
    inside = tuple(part.images for part in parts)
    everything = (path for top in sorted(tops) if top.name in IMAGES for path in images_below(top, Counter()))
    left = [path for path in everything if not any(path.is_relative_to(place) for place in inside)]
    names = listed([shown(path.relative_to(folder)) for path in left], 5)
    return [f"left out {number_of(len(left), 'image')} in no folder of a split: {names}"] if left else []


def _by_lists(folder: Path, top: Path, images: Sequence[Path], notes: list[str]) -> dict[str, list[Path]]:
    """The images by split according to lists of names, such as train.txt; all for training without lists.

    Raises:
        UserError: a list names an image that does not exist.
    """
    lists = next((found for place in _LIST_PLACES if (found := lists_in(folder / place)).get("train")), None)
    if lists is None:
        return {"train": list(images)}
    by_key = {_key(image, top): image for image in images}
    by_name = {image.name: image for image in images}
    splits: dict[str, list[Path]] = {}
    for split, files in lists.items():
        for file in files:
            named = [one_form(line.split()[0]) for line in list_lines(file)]
            absent = [name for name in named if name not in by_key and name not in by_name]
            if absent:
                raise UserError(
                    f"{file} names {number_of(len(absent), 'image')} not in {top}: {listed(absent, 5)}; add them, or "
                    "correct the list"
                )
            splits.setdefault(split, []).extend(by_key.get(name) or by_name[name] for name in named)
    left = set(images) - {image for paths in splits.values() for image in paths}
    if left:
        notes.append(f"left out {number_of(len(left), 'image')} in no list: {listed(sorted(p.name for p in left), 5)}")
    return splits
