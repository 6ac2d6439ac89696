"""Output of the data set readers: names and labels as text, not yet numbered or split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from vpt.data.dataset import Item
from vpt.data.decode import EXTENSIONS
from vpt.data.medical.files import extension
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line

# Common names of the splits, mapped to ours.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class NoTrainingImages(UserError):
    """A data set that has only test images."""


class Entry(NamedTuple):
    """One image with the names of its labels, where a list names it, as in "photos.csv, line 3", and its group."""

    name: str
    source: Path | Item
    labels: tuple[str, ...]
    place: str = ""
    group: str = ""

    def printable(self) -> Entry:
        """The entry with names that can be printed."""
        return self._replace(name=one_line(self.name), labels=tuple(map(one_line, self.labels)))


@dataclass
class Found:
    """Entries by split ("train", "val", "test"), and messages for the user.

    `classes` is None if the training entries determine the classes, else the data set's own list. `divided` says
    whether the splits are the data set's own; otherwise all entries are under "train". `left_out` counts files that
    exist but are not entries, by reason; `absent` are files that entries name but that do not exist.
    """

    splits: dict[str, list[Entry]] = field(default_factory=dict)
    multilabel: bool = False
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    divided: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    absent: set[Path] = field(default_factory=set)


E = TypeVar("E")


class Named(Protocol):
    """What readers find: class names, and entries by split."""

    classes: tuple[str, ...] | None
    splits: Any


def clean_names(found: Named) -> None:
    """Escape characters of image and class names that cannot be printed or encoded; names come from untrusted files."""
    if found.classes is not None:
        found.classes = tuple(map(one_line, found.classes))
    for split, entries in found.splits.items():
        found.splits[split] = [entry.printable() for entry in entries]


def entries_for(split: str, splits: Mapping[str, list[E]], path: str | os.PathLike[str]) -> list[E]:
    """The entries of what the user gives for one split: those of that split, else those for training.

    Args:
        split: the split.
        splits: entries of the data set at `path`, which may list other splits as well.
        path: for the message.

    Raises:
        UserError: there are only other splits.

    >>> entries_for("val", {"train": [1]}, "photos"), entries_for("val", {"train": [1], "val": [2]}, "photos")
    ([1], [2])
    """
    entries = splits.get(split) or splits.get("train")
    if entries is None:
        raise UserError(f"data.{split}={path} lists only {listed(sorted(splits))} images, none for {split}")
    return entries


def is_image(name: str) -> bool:
    """Whether a file name has an image extension and is not hidden.

    >>> is_image("a.JPG"), is_image(".a.jpg"), is_image("a.txt")
    (True, False, False)
    """
    return not name.startswith(".") and extension(name) in EXTENSIONS


def listed(names: list[str], limit: int = 10) -> str:
    """The first names, comma-separated, and the number of further ones.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    more = len(names) - limit
    return ", ".join(name[:200] for name in names[:limit]) + (f" and {more} more" if more > 0 else "")


def number_of(count: int, noun: str) -> str:
    """A count with its noun.

    >>> number_of(1, "image"), number_of(2, "image")
    ('1 image', '2 images')
    """
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def ignored_note(ignored: Counter[str]) -> list[str]:
    """Messages about files that were ignored, by extension, and about hidden ones.

    >>> ignored_note(Counter({".txt": 2, "hidden": 1}))
    ['ignored 2 files that are not images: 2 .txt', 'ignored 1 hidden file']
    """
    others = Counter({kind: count for kind, count in ignored.items() if kind != "hidden" and count})
    notes = []
    if others:
        kinds = ", ".join(f"{count} {kind or 'without extension'}" for kind, count in others.most_common(8))
        notes.append(f"ignored {number_of(others.total(), 'file')} that are not images: {kinds}")
    if ignored["hidden"]:
        notes.append(f"ignored {number_of(ignored['hidden'], 'hidden file')}")
    return notes
