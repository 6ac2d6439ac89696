"""Removes images from training that a list or a folder holds out, even if the annotations do not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vpt.data.annotation_text import one_form, printable
from vpt.data.datasets.entries import listed, number_of
from vpt.data.detection.dataset import BoxEntry, BoxFound
from vpt.data.detection.split_names import HELD_OUT, list_lines, lists_in, split_named
from vpt.utils.errors import UserError

_PLACES = (".", "ImageSets/Main", "ImageSets", "splits", "lists", "annotations")


def hold_out(found: BoxFound) -> None:
    """Move images out of training that a list named after validation or test contains, or that are in a folder named so
    inside one that was read as a whole. Splits that the data set defines itself are not changed.

    Raises:
        UserError: a list with names that match several images.
    """
    for split in HELD_OUT:
        train = found.splits.get("train", [])
        if not train or found.splits.get(split):
            continue
        held = {**_by_list(split, train, found), **_by_folder(split, train, found.tops)}
        if not held:
            continue
        why = listed(sorted(set(held.values())), 3)
        if len(held) == len(train):
            found.notes.append(f"{why} would hold out every image for {split}, and is ignored")
            continue
        found.splits[split] = [entry for at, entry in enumerate(train) if at in held]
        found.splits["train"] = [entry for at, entry in enumerate(train) if at not in held]
        found.notes.append(
            f"moved {number_of(len(held), 'image')} from training to {split}, held out by {why}; rename that if this "
            "is wrong"
        )


def _by_list(split: str, train: Sequence[BoxEntry], found: BoxFound) -> dict[int, str]:
    """Indices of the training images named in lists, with the name of the list."""
    files = [file for place in _PLACES for file in lists_in(found.folder / place).get(split, [])]
    held: dict[int, str] = {}
    ends: dict[str, set[int]] = {}
    for file in files:
        if file in found.read:
            continue
        ends = ends or _ends(train, found.folder)
        named = [at for line in _lines(file) if (at := _named(line, ends, train, file)) is not None]
        if named:
            found.read.add(file)
            held |= dict.fromkeys(named, file.name)
    return held


def _ends(train: Sequence[BoxEntry], folder: Path) -> dict[str, set[int]]:
    """Ends of the images' paths, with and without extension, and the indices of the images that have each."""
    top = os.path.abspath(folder)
    ends: dict[str, set[int]] = {}
    for at, entry in enumerate(train):
        path = Path(os.path.relpath(os.path.abspath(entry.source), top))
        for form in (path, path.with_suffix("")):
            parts = one_form(form.as_posix()).split("/")
            for start in range(len(parts)):
                ends.setdefault("/".join(parts[start:]), set()).add(at)
    return ends


def _lines(file: Path) -> Iterator[str]:
    try:
        yield from list_lines(file)
    except UserError:  # not text, so not a list
        return


def _named(line: str, ends: dict[str, set[int]], train: Sequence[BoxEntry], file: Path) -> int | None:
    """Index of the image that a line names, matching as much of the end of its path as possible."""
    for text in dict.fromkeys([line, *line.split()[:1]]):
        parts = [part for part in one_form(text).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            fits = ends.get("/".join(parts[start:]), set())
            if len(fits) > 1:
                names = listed([train[at].name for at in sorted(fits)], 3)
                raise UserError(f"{file} names {printable(line)}, which may be any of {names}; add the folder there")
            if fits:
                return next(iter(fits))
    return None


def _by_folder(split: str, train: Sequence[BoxEntry], tops: Sequence[Path]) -> dict[int, str]:
    """Indices of the training images in a folder named after the split, with that folder."""
    held = {}
    deepest = sorted(tops, key=lambda top: -len(top.parts))
    for at, entry in enumerate(train):
        top = next((top for top in deepest if entry.source.is_relative_to(top)), None)
        parts = entry.source.relative_to(top).parts[:-1] if top is not None else ()
        if parts and split_named(parts[0]) == split:
            held[at] = f"the folder {parts[0]}"
    return held
