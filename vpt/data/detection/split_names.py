"""Splits named by files and folders, and lists of the images of a split."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from vpt.data.datasets.entries import SPLIT_NAMES
from vpt.data.datasets.split_files import read_text

Name = TypeVar("Name", str, Path)

HELD_OUT = ("val", "test")
# Names that tools use for sets that are not split.
UNSPLIT = ("default", "all")
JOINED = "trainval"
_WORDS = {**SPLIT_NAMES, "minival": "val", "eval": "val", "evaluation": "val", "holdout": "test", "heldout": "test"}


def split_named(name: str) -> str | None:
    """The split of a folder or list whose whole name, apart from a year, is that of a split.

    >>> split_named("Valid"), split_named("test2017"), split_named("contest"), split_named("train_cats")
    ('val', 'test', None, None)
    """
    return _WORDS.get(re.sub(r"[\d_-]+$", "", name.lower()).replace("_", "").replace("-", ""))


def split_within(name: str) -> str | None:
    """The split that a name contains as a word, if it contains exactly one.

    >>> split_within("instances_val2017"), split_within("my-test.annotations"), split_within("latest")
    ('val', 'test', None)
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def list_lines(file: Path) -> list[str]:
    """The non-empty lines of a list, without surrounding quotes.

    Raises:
        UserError: it cannot be read.
    """
    lines = (line.strip() for line in read_text(file, "check data.path").splitlines())
    return [line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' else line for line in lines if line]


def lists_in(folder: Path) -> dict[str, list[Path]]:
    """The text files of a folder that are named after a split, such as `val.txt` or `test_list.txt`, by split.

    >>> lists_in(Path("no/such"))
    {}
    """
    found: dict[str, list[Path]] = {}
    if folder.is_dir():
        for file in sorted(folder.iterdir()):
            split = split_named(file.stem.removesuffix("_list")) if file.suffix.lower() == ".txt" else None
            if split is not None and file.is_file():
                found.setdefault(split, []).append(file)
    return found


def rest(everything: Iterable[Name], held: Mapping[str, Collection[Name]]) -> list[Name]:
    """What is in none of the given splits, in order: if only validation or test images are listed, these are for
    training.

    >>> rest("abcd", {"test": "b", "val": "d"})
    ['a', 'c']
    """
    taken = {name for names in held.values() for name in names}
    return [name for name in everything if name not in taken]
