"""What a data set is once it has been read: records with integer labels, in three splits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Item(NamedTuple):
    """Image number `at` of a torchvision data set (anything whose `[at]` gives an image and a label)."""

    dataset: Any
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """One image: the name shown to users, where its pixels are, and the indices of its classes."""

    name: str
    source: Path | Item
    labels: tuple[int, ...]

    def identity(self) -> list[Any]:
        """What decides the record, for fingerprints."""
        return [self.name, self.labels]


SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledData:
    """A data set. Labels index `classes`, which is decided once, by the training split.

    `notes` are sentences for the user about what was chosen or left out on the way here. `pixels` is a digest of what
    the images show, "" before they were looked at: see `vpt.data.check`.
    """

    classes: tuple[str, ...]
    multilabel: bool
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    pixels: str = ""

    def split(self, name: str) -> tuple[Record, ...]:
        """The records of "train", "val" or "test"."""
        if name not in SPLITS:
            raise KeyError(name)
        records: tuple[Record, ...] = getattr(self, name)
        return records

    def fingerprint(self) -> str:
        """sha256 over classes and over names and labels of every split, in order.

        Names are relative to the data set, so moving its folder changes nothing; adding, removing, renaming,
        relabelling or splitting otherwise does. Pixels are not read.

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

    def summary(self) -> str:
        """One line with the counts.

        >>> LabelledData(("cat", "dog"), False, (), ()).summary()
        '2 classes, 0 training, 0 validation and 0 test images'
        """
        kind = "labels, several an image" if self.multilabel else "class" if len(self.classes) == 1 else "classes"
        return (
            f"{len(self.classes)} {kind}, {len(self.train)} training, {len(self.val)} validation "
            f"and {len(self.test)} test images"
        )
