"""A data set after reading: records with integer labels, in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vpt.config.data import Window


class Item(NamedTuple):
    """Image `at` of a torchvision data set (any object whose `[at]` returns an image and a label)."""

    dataset: Any
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """One image: its display name, where its pixels are, and the indices of its classes.

    `window` is `data.window` of the run it is read for. `place` says where a list names it, as in "photos.csv, line 3".
    `group` is what it has in common with other images, such as a patient; "" without `data.group`. `channels` is
    `data.channels`.
    """

    name: str
    source: Path | Item
    labels: tuple[int, ...]
    window: Window = field(default="auto", kw_only=True)
    place: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)
    channels: int | None = field(default=None, kw_only=True)

    def identity(self) -> list[Any]:
        """What identifies the record in fingerprints."""
        return [self.name, self.labels]

    def problem(self) -> str:
        """Why the image cannot be used, according to its annotations; "" if it can."""
        return ""

    def caption(self, classes: Sequence[str]) -> str:
        """What the image shows, for a picture of it."""
        return ", ".join(classes[label] for label in dict.fromkeys(self.labels)) or "no label"


@dataclass(frozen=True, slots=True)
class NumberRecord(Record):
    """An image with a number to predict. Its only class, 0, is that number's name."""

    number: float = field(default=0.0, kw_only=True)

    def identity(self) -> list[Any]:
        """What identifies the record in fingerprints."""
        return [self.name, self.labels, self.number]

    def caption(self, classes: Sequence[str]) -> str:
        """The number."""
        return f"{classes[0]} {self.number:.6g}"


SPLITS = ("train", "val", "test")


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced; files are sorted by class, and so the first are all alike.

    >>> spread(3, 4), spread(100, 4)
    ([0, 1, 2], [0, 25, 50, 75])
    """
    shown = min(count, most)
    return [at * count // shown for at in range(shown)]


@dataclass(frozen=True)
class LabelledData:
    """A data set. Labels index `classes`, which are determined by the training split.

    `notes` are messages for the user about what was chosen or left out. `left_out` counts files of a folder, or rows of
    a table, that are not among the records, by reason. `pixels` is a digest of the decoded images, "" before they are
    decoded: see `vpt.data.validation`.
    """

    numeric: ClassVar[bool] = False  # records are NumberRecord
    classes: tuple[str, ...]
    multilabel: bool
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    pixels: str = ""

    def split(self, name: str) -> tuple[Record, ...]:
        """The records of "train", "val" or "test"."""
        if name not in SPLITS:
            raise KeyError(name)
        records: tuple[Record, ...] = getattr(self, name)
        return records

    def thinned(self, most: int) -> LabelledData:
        """The same data with at most `most` images in each split, evenly spaced.

        >>> LabelledData(("cat", "dog"), False, (), ()).thinned(8).train
        ()
        """
        few = [tuple(self.split(split)[at] for at in spread(len(self.split(split)), most)) for split in SPLITS]
        return replace(self, train=few[0], val=few[1], test=few[2])

    def with_window(self, window: Window) -> LabelledData:
        """The same records, to be read with a window.

        >>> one = Record("a.png", Path("a.png"), (0,))
        >>> LabelledData(("cat", "dog"), False, (one,), ()).with_window((0.0, 4095.0)).train[0].window
        (0.0, 4095.0)
        """
        train, val, test = (tuple(replace(record, window=window) for record in self.split(split)) for split in SPLITS)
        return replace(self, train=train, val=val, test=test)

    def fingerprint(self) -> str:
        """sha256 over classes and over names and labels of every split, in order.

        Names are relative to the data set, so moving its folder does not change the digest; adding, removing, renaming,
        relabelling or moving images between splits does. Pixels are not read.

        >>> one = Record("a.png", Path("a.png"), (0,))
        >>> data = LabelledData(("cat", "dog"), False, (one,), ())
        >>> data.fingerprint() == LabelledData(("cat", "dog"), False, (), (one,)).fingerprint()
        False
        """
        digest = hashlib.sha256(json.dumps([self.classes, self.multilabel]).encode())
        for name in SPLITS:
            for record in self.split(name):
                digest.update(json.dumps([name, *record.identity()]).encode())
        return digest.hexdigest()

    def account(self, unit: str, place: str) -> str:
        """Account for everything that was found: images in the splits, and what was left out. The counts add up.

        Args:
            unit: what is counted, as in "file".
            place: the folder or table.

        >>> one = Record("a.png", Path("a.png"), (0,))
        >>> LabelledData(("cat", "dog"), False, (one,), (), left_out=(("hidden", 2),)).account("file", "photos")
        '3 files in photos: 1 image, 2 hidden'
        """
        used = sum(len(self.split(name)) for name in SPLITS)
        total = used + sum(count for _, count in self.left_out)
        parts = [f"{used} image{'' if used == 1 else 's'}", *(f"{count} {what}" for what, count in self.left_out)]
        units = unit if total == 1 else unit.replace(" or ", "s or ") + "s"
        return f"{total} {units} in {place}: {', '.join(parts)}"

    def summary(self) -> str:
        """One line with the counts.

        >>> LabelledData(("cat", "dog"), False, (), ()).summary()
        '2 classes, 0 training, 0 validation and 0 test images'
        """
        return (
            f"{self._labels()}, {len(self.train)} training, {len(self.val)} validation and {len(self.test)} test images"
        )

    def _labels(self) -> str:
        kind = "class" if len(self.classes) == 1 else "classes"
        return f"{len(self.classes)} {kind}" + (" (an image may have several)" if self.multilabel else "")


@dataclass(frozen=True)
class NumberData(LabelledData):
    """Images with a number each; `classes` is the name of the number."""

    numeric: ClassVar[bool] = True

    def _labels(self) -> str:
        return f"numbers ({self.classes[0]})"
