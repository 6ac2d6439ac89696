"""Data for evaluating a finished artifact. The artifact knows its classes, so training images are not needed, classes
may be missing, and nothing is split off or drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vpt.config import DataConfig
from vpt.data.class_names import clean
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.csv import is_csv, read_table
from vpt.data.datasets.entries import Entry, Found, clean_names, listed, number_of
from vpt.data.datasets.image_folder import read_split_folder
from vpt.data.datasets.registry import (
    EMBEDDED,
    Readers,
    clean_labels,
    read_source,
    record_of,
    refuse_unlabelled,
    renamed,
    unique_files,
    unknown_classes,
)
from vpt.data.groups import with_groups
from vpt.data.splits import with_slices
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError

OTHERS = "of other splits"


E = TypeVar("E")


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Args:
        split: train, val or test; None for test, or the only split there is.
        classes: classes of the artifact, in its order; None to use those of the data.
        names: whether the artifact encodes class names, so that it can use those of the data if it does not know them.
    """

    split: str | None
    classes: tuple[str, ...] | None
    names: bool = False


def load_measured(config: DataConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
    """Read the split to evaluate, and nothing else; also return its name.

    If `data.val` or `data.test` names a folder or CSV for the split, only that is read. From `data.path` the split is
    read if the data set has splits; otherwise all of its images are.

    Raises:
        UserError: the data cannot be found or read, lacks the split, or has none of the classes.

    >>> load_measured(DataConfig(path="no/such/folder"), EvaluationRequest("test", ("cat", "dog")))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no folder no/such/folder; check data.path
    """
    known = None if request.classes is None else {clean(name) or name for name in request.classes}
    found, path = found_for(config, request.split or "test", known)
    found.multilabel |= config.multilabel
    refuse_unlabelled(found)
    clean_labels(found)
    clean_names(found)
    split = chosen(found.splits, found.divided, request.split, path)
    entries = unique_files(found.splits[split], config.separator, found)
    notes = [*found.notes, *choice_notes(found.splits, found.divided, split, request.split, path)]
    left_out = found.left_out + others_of(found, split)
    split = request.split or (split if found.divided else "test")
    classes = request.classes
    if classes is None or (request.names and _has_other_names(found, entries, known or ())):
        classes = found.classes or tuple(sorted({label for entry in entries for label in entry.labels}))
    kept, unknown = _of_classes(entries, classes)
    kept = with_groups(kept, config)
    if unknown:
        what = "labels ignored" if found.multilabel else "images not evaluated"
        notes.append(f"warning: {what}, of classes that the artifact does not know: {listed(unknown)}")
        left_out["of classes that the artifact does not know"] += len(entries) - len(kept)
    if not kept:
        raise UserError(
            f"{path} has no image of a class that the artifact was trained on: it has {listed(unknown)}; the artifact "
            f"knows {listed(list(classes))}"
        )
    records = with_slices(kept, config)
    train, val, test = (records if name == split else () for name in SPLITS)
    counts = tuple(sorted((+left_out).items()))
    return LabelledData(classes, found.multilabel, train, val, test, tuple(notes), counts), split


def overlap(one: DataConfig, other: DataConfig, split: str) -> bool:
    """Whether the split of one data section is inside, or contains, the data of the other, as far as paths tell.

    >>> overlap(DataConfig(path="a/b"), DataConfig(path="a"), "test")
    True
    """
    place = {"val": one.val, "test": one.test}.get(split) or one.path
    first, second = (Path(os.path.realpath(at_home(path))) for path in (place, other.path))
    return first.is_relative_to(second) or second.is_relative_to(first)


def found_for(
    config: DataConfig, split: str, known: Collection[str] | None, embedded: Readers = EMBEDDED
) -> tuple[Found, str]:
    """The entries of the split, and the path to use in messages; `embedded` reads the data sets that come with vpt."""
    place = {"val": config.val, "test": config.test}.get(split)
    if place is None:
        return read_source(config, known if known is not None else (), embedded), config.path
    path = at_home(place)
    if is_csv(path):
        found = read_table(path, config)
        if found.divided and split not in found.splits and "train" not in found.splits:
            raise UserError(f"data.{split}={place} lists only {listed(sorted(found.splits))} images, none for {split}")
        # A CSV with several splits is used for the one it is given for.
        entries = found.splits.get(split) or found.splits["train"]
    else:
        found = read_split_folder(path, known if known is not None else ())
        entries = found.splits["train"]
    others = sum(map(len, found.splits.values())) - len(entries)
    if others:
        found.notes.append(f"not evaluated: {number_of(others, 'image')} of other splits in {place}")
        found.left_out[OTHERS] += others
    return Found({split: renamed(entries, path)}, found.multilabel, None, found.notes, True, found.left_out), place


def chosen(splits: Mapping[str, Sequence[Any]], divided: bool, wanted: str | None, path: str) -> str:
    """The split to evaluate.

    Args:
        splits: the available splits.
        divided: whether the splits are the data set's own.
        wanted: the requested split.
        path: of the data set, for messages.

    Raises:
        UserError: the split does not exist.

    >>> chosen({"train": [1, 2]}, False, "test", "photos"), chosen({"val": [1]}, True, None, "photos")
    ('train', 'val')
    """
    there = [name for name in SPLITS if splits.get(name)]
    if not divided:
        return there[0]
    split = wanted or "test"
    if split in there:
        return split
    if wanted is None and len(there) == 1:
        return there[0]
    counts = [f"{len(splits[name])} {name}" for name in there]
    choice = " or ".join(f"split={name}" for name in there)
    raise UserError(f"{path} has no {split} images, but {' and '.join(counts)}; choose with {choice}")


def place_given(config: DataConfig, request: EvaluationRequest) -> str | None:
    """`data.val` or `data.test`, if that is the split to evaluate; None if it is read from `data.path`."""
    return {"val": config.val, "test": config.test}.get(request.split or "test")


def split_in(
    found: Mapping[str, Sequence[E]], config: DataConfig, request: EvaluationRequest
) -> tuple[str, str, Sequence[E], list[str]]:
    """The split of boxes or masks to evaluate: its name there, the name it is reported under, its entries, and notes.

    Args:
        found: what was read from `place_given` or `data.path`, by split.
        config: the data section.
        request: which split is wanted.

    Raises:
        UserError: the data lacks the split.
    """
    wanted, given = request.split or "test", place_given(config, request)
    place = given or config.path
    splits = {name: entries for name, entries in found.items() if entries}
    divided = set(splits) != {"train"}
    if given is not None and wanted not in splits and "train" in splits:
        splits, divided = {wanted: splits["train"]}, True  # a separate file or folder for one split
    split = chosen(splits, divided, request.split, place)
    notes = choice_notes(splits, divided, split, request.split, place)
    return split, request.split or (split if divided else "test"), splits[split], notes


def choice_notes(
    splits: Mapping[str, Sequence[Any]], divided: bool, split: str, wanted: str | None, path: str
) -> list[str]:
    """Notes for the user about the choice of the split.

    >>> choice_notes({"train": [1, 2], "test": [3]}, True, "test", "test", "photos")
    ['not evaluated: 2 train images of photos (split=train)']
    """
    if not divided:
        if wanted in (None, "test"):
            return []
        return [f"{path} has no splits: all of its images are evaluated, whatever split={wanted} was in training"]
    others = {name: len(entries) for name, entries in splits.items() if name != split and entries}
    if wanted is None and split != "test":
        return [f"{path} has only {split} images, which are evaluated"]
    if not others:
        return []
    return [
        f"not evaluated: {', '.join(f'{count} {name}' for name, count in others.items())} images of {path} "
        f"({', '.join(f'split={name}' for name in others)})"
    ]


def others_of(found: Found, split: str) -> Counter[str]:
    """Counts of the images of other splits, for `left_out`."""
    return Counter({OTHERS: sum(len(entries) for name, entries in found.splits.items() if name != split)})


def _has_other_names(found: Found, entries: Sequence[Entry], known: Collection[str]) -> bool:
    """Whether the data defines its own class names: a list, or names that the artifact does not know."""
    if found.classes is not None:
        return True
    return bool({label for entry in entries for label in entry.labels} - set(known))


def _of_classes(entries: Sequence[Entry], classes: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Records of the images of these classes, numbered in their order; and the other classes, with their images.

    Unknown labels of a multi-label image are ignored; an image with none but unknown labels is left out.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        numbers.setdefault(name, number)
    for number, name in enumerate(classes):  # an older artifact may contain names exactly as the folders were named
        numbers.setdefault(clean(name), number)
    kept = []
    for entry in entries:
        labels = tuple(label for label in entry.labels if label in numbers)
        if labels or not entry.labels:
            kept.append(record_of(entry._replace(labels=labels), numbers))
    return kept, unknown_classes(entries, numbers)
