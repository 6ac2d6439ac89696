"""Inventory of a detection data set: accounts for every file of a folder, and counts boxes by class and split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpt.data.class_counts import MOST, WORDS
from vpt.data.class_names import visible
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.datasets.entries import is_image, listed, number_of
from vpt.data.datasets.paths import file_identity
from vpt.data.detection.dataset import BoxFound, BoxRecord
from vpt.data.detection.split_names import split_named
from vpt.data.detection.yolo import NO_LABELS
from vpt.utils.file_names import shown

_SHOWN = 5


@dataclass(frozen=True)
class Inventory:
    """The files below a folder by category, as relative paths.

    Args:
        folder: of the data set.
        images: images in a split, usable or not.
        repeated: images that are another path to one of these.
        unused_images: images in no split.
        annotations: files that annotations, lists and descriptions were read from.
        orphans: annotation files whose image is missing.
        unused_annotations: files of the same kind that were not read.
        others: everything else.
    """

    folder: Path
    images: tuple[str, ...]
    repeated: tuple[str, ...]
    unused_images: tuple[str, ...]
    annotations: tuple[str, ...]
    orphans: tuple[str, ...]
    unused_annotations: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def total(self) -> int:
        """Total number of files."""
        kinds = (self.images, self.repeated, self.unused_images, self.annotations, self.orphans)
        return sum(map(len, (*kinds, self.unused_annotations, self.others)))

    def text(self) -> str:
        """A few lines with the counts, which add up, and the first names of files that were not read."""
        images, annotations = number_of(len(self.images), "image"), number_of(len(self.annotations), "annotation file")
        lines = [f"{number_of(self.total, 'file')} in {self.folder}: {images} and {annotations} read"]
        for names, noun, what in (
            (self.repeated, "further path", "to images that were read"),
            (self.unused_images, "image", "not read, in no split or without annotation"),
            (self.orphans, "annotation file", "without an image"),
            (self.unused_annotations, "annotation file", "not read"),
        ):
            if names:
                lines.append(f"  {number_of(len(names), noun)} {what}: {listed(list(names), _SHOWN)}")
        if self.others:
            kinds = Counter(Path(name).suffix.lower() or "without extension" for name in self.others)
            lines.append(
                f"  {number_of(len(self.others), 'other file')}: "
                f"{', '.join(f'{count} {kind}' for kind, count in kinds.most_common(8))}"
            )
        return "\n".join(lines)


def inventory(found: BoxFound, images: Sequence[Path]) -> Inventory:
    """Categorise the files of a data set.

    Args:
        found: the result of its reader.
        images: images of all splits.
    """
    read_images = {_absolute(image) for image in images}
    read_files = {_absolute(file) for file in found.read}
    orphans = {_absolute(file) for file in found.orphans}
    identities = {file_identity(image) for image in images}
    suffixes = {
        entry.file.suffix.lower() for entries in found.splits.values() for entry in entries if entry.file is not None
    } or {file.suffix.lower() for file in found.read}
    kinds: dict[str, list[str]] = {kind: [] for kind in Inventory.__dataclass_fields__ if kind != "folder"}
    for file in files_below(found.folder):
        path = _absolute(file)
        if path in read_images:
            kind = "images"
        elif is_image(file.name):
            kind = "repeated" if file_identity(file) in identities else "unused_images"
        elif path in orphans:
            kind = "orphans"
        elif path in read_files:
            kind = "annotations"
        else:
            kind = "unused_annotations" if _may_be_annotation(file, suffixes) else "others"
        kinds[kind].append(shown(file.relative_to(found.folder)))
    return Inventory(found.folder, **{kind: tuple(names) for kind, names in kinds.items()})


def _may_be_annotation(file: Path, suffixes: set[str]) -> bool:
    special = file.name.lower().partition(".")[0] in NO_LABELS or file.name.startswith(".")
    if file.suffix.lower() == ".txt":
        special = special or split_named(file.stem.removesuffix("_list")) is not None
    return file.suffix.lower() in suffixes and not special


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, including hidden ones, following links, each folder once; in order.

    >>> list(files_below(Path("no/such")))
    []
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _absolute(path: Path) -> str:
    return os.path.normpath(os.path.abspath(path))


def class_lines(data: LabelledData, unusable: Collection[tuple[str, str]] = ()) -> list[str]:
    """A line per class with the numbers of boxes and images by split; and one for crowds, if there are any.

    Args:
        data: a data set with boxes.
        unusable: split and name of images that cannot be used, whose boxes are not counted.

    >>> class_lines(LabelledData(("cat",), False, (), ()))
    ['cat: no boxes']
    """
    boxes: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    images: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    crowds = 0
    for split in SPLITS:
        for record in data.split(split):
            if isinstance(record, BoxRecord) and (split, record.name) not in unusable:
                single = [label for label, crowd in zip(record.labels, record.crowds, strict=True) if not crowd]
                boxes[split].update(single)
                images[split].update(set(single))
                crowds += sum(record.crowds)
    lines = []
    for label, name in enumerate(data.classes[:MOST]):
        parts = [
            f"{number_of(boxes[split][label], 'box')} in {number_of(images[split][label], f'{WORDS[split]} image')}"
            for split in SPLITS
            if boxes[split][label]
        ]
        lines.append(f"{visible(name)}: {', '.join(parts) or 'no boxes'}")
    if len(data.classes) > MOST:
        lines.append(f"and {len(data.classes) - MOST} more classes")
    if crowds:
        lines.append(f"{number_of(crowds, 'crowd')}, not used for training and not counted as missed")
    return lines


def report(data: LabelledData, sources: Sequence[BoxFound], unusable: Collection[tuple[str, str]] = ()) -> str:
    """The box report of `vpt data check`: classes by split, and the files of every folder that was read."""
    images = [record.source for split in SPLITS for record in data.split(split) if isinstance(record.source, Path)]
    return "\n".join([*class_lines(data, unusable), *(inventory(found, images).text() for found in sources)])
