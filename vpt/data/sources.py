"""`load_data`: from the data section of the configuration to numbered, split records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.boxes.layouts import layout_of
from vpt.data.dassl import read_dassl
from vpt.data.digits import read_digits
from vpt.data.entries import Entry, Found, listed, number_of
from vpt.data.fgvc import read_fgvc
from vpt.data.folder import read_folder, read_split_folder
from vpt.data.records import SPLITS, LabelledData, Record
from vpt.data.splits import TEST, draw_shots, set_apart, split_off
from vpt.data.table import is_csv, read_csv
from vpt.data.torchvision_sets import read_torchvision
from vpt.data.vtab import read_vtab
from vpt.errors import UserError
from vpt.files import at_home, system_reason
from vpt.names import one_line


def load_data(config: DataConfig) -> LabelledData:
    """Read the data set that `config.path` names and decide classes and splits. No image is opened.

    The training classes, sorted, are numbered; validation and test use the same numbers. Where there is no
    validation split, `val_fraction` of each class is split off training; then `shots` images of each class are
    drawn from training (all of a class that has fewer, with a note).

    Raises:
        UserError: the data cannot be found or used; the sentence names what and how to mend it.

    >>> load_data(DataConfig(path="no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.errors.UserError: there is no folder no/such/folder; check data.path
    """
    found = _read(config)
    for split, path in (("val", config.val), ("test", config.test)):
        if path is not None:
            _override(found, split, at_home(path), config.separator)
    _clean_names(found)
    found.splits = {split: _once(entries, config.separator, found.notes) for split, entries in found.splits.items()}
    _refuse_shared(found.splits)

    classes = _classes(found, config)
    if config.half != "all":
        classes = _half(found, classes, config.half)
    numbers = {name: number for number, name in enumerate(classes)}
    train, val, test = (_numbered(found.splits.get(split, ()), split, numbers) for split in SPLITS)
    notes = list(found.notes)
    if not test and config.test_fraction is not None:
        train, test = split_off(train, config.test_fraction, config.split_seed, TEST)
        notes.append(
            f"split {number_of(len(test), 'image')} off for test (data.test_fraction={config.test_fraction:g})"
        )
    if not val and train:
        train, val = _with_validation(train, config, notes)
    if config.shots is not None:
        train, short = draw_shots(train, config.shots, config.split_seed)
        if short:
            few = [f"{classes[label]} ({count})" for label, count in short.items()]
            notes.append(f"fewer training images than data.shots={config.shots}, so all are used: {listed(few)}")
    train, val, test = set_apart(train, val, test, config)
    return LabelledData(classes, found.multilabel, tuple(train), tuple(val), tuple(test), tuple(notes))


def _read(config: DataConfig) -> Found:
    kind, colon, name = config.path.partition(":")
    if config.path == "digits":
        return read_digits()
    if colon and kind == "dassl":
        return read_dassl(name, at_home(config.root))
    if colon and kind == "vtab":
        return read_vtab(name, at_home(config.root))
    if colon and kind == "fgvc":
        return read_fgvc(name, at_home(config.root))
    if colon and kind == "torchvision":
        return read_torchvision(name, at_home(config.root), config.download)
    path = at_home(config.path)
    if is_csv(path):
        return read_csv(path, config.separator)
    if os.path.isfile(path):
        raise UserError(
            f"data.path={config.path} is a file but no CSV; give a folder of class folders or a .csv file, "
            "or for boxes set task=detection"
        )
    try:
        return read_folder(path)
    except UserError:
        # What boxes come in looks like class folders that are broken.
        if (layout := layout_of(path)) is not None:
            raise UserError(f"data.path={config.path} holds boxes ({layout}); set task=detection") from None
        raise


def _override(found: Found, split: str, path: Path, separator: str) -> None:
    """Let a folder or CSV of its own stand for one split."""
    other = read_csv(path, separator) if is_csv(path) else read_split_folder(path)
    # A CSV may list other splits as well.
    entries = other.splits.get(split) or other.splits.get("train")
    if entries is None:
        raise UserError(f"data.{split}={path} lists {listed(sorted(other.splits))} images alone, none for {split}")
    if found.splits.get(split):
        found.notes.append(f"data.{split}={path} is used instead of the {split} images of data.path")
    # Named after its folder, as two folders tend to hold the same names.
    found.splits[split] = [entry._replace(name=f"{path.stem}/{entry.name}") for entry in entries]
    found.multilabel |= other.multilabel
    found.notes += other.notes


def _clean_names(found: Found) -> None:
    """Names of images and classes come from files of others: what cannot be printed or encoded is escaped here."""
    if found.classes is not None:
        found.classes = tuple(map(one_line, found.classes))
    found.splits = {
        split: [
            entry._replace(name=one_line(entry.name), labels=tuple(map(one_line, entry.labels))) for entry in entries
        ]
        for split, entries in found.splits.items()
    }


def _once(entries: list[Entry], separator: str, notes: list[str]) -> list[Entry]:
    """Drop repetitions of a file: split at random, the same image could end up on both sides."""
    first: dict[tuple[int, int], Entry] = {}
    kept: list[Entry] = []
    for entry in entries:
        if not isinstance(entry.source, Path):
            return entries
        before = first.setdefault(_identity(entry.source), entry)
        if before is entry:
            kept.append(entry)
        elif set(before.labels) != set(entry.labels):
            raise UserError(
                f"the same file has different labels: {before.name} ({', '.join(before.labels)}) and {entry.name} "
                f"({', '.join(entry.labels)}); remove one, or for several labels an image list it once in a CSV file "
                f"with its labels joined by '{separator}'"
            )
    if len(kept) < len(entries):
        notes.append(f"left out {number_of(len(entries) - len(kept), 'repetition')} of a file with the same label")
    return kept


def _refuse_shared(splits: dict[str, list[Entry]]) -> None:
    owners: dict[tuple[int, int], tuple[str, str]] = {}
    shared: list[str] = []
    for split in SPLITS:
        for entry in splits.get(split, []):
            if not isinstance(entry.source, Path):
                break
            before, name = owners.setdefault(_identity(entry.source), (split, entry.name))
            if before != split:
                shared.append(f"{name} ({before}) is {entry.name} ({split})")
    if shared:
        raise UserError(
            f"{number_of(len(shared), 'file')} in two splits, which makes the score worthless: {listed(shared)}; "
            "keep each in one split only"
        )


def _identity(path: Path) -> tuple[int, int]:
    # Sees through links and different spellings of a path.
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        reason = system_reason(error) or "no such file"
        raise UserError(f"cannot read {str(path)[:200]}: {reason}; remove it or make it readable") from None
    return status.st_dev, status.st_ino


def _half(found: Found, classes: tuple[str, ...], half: str) -> tuple[str, ...]:
    """The first half of the classes (one more where their number is odd) or the second, and only their images."""
    if found.multilabel:
        raise UserError("data.half parts classes, which several labels an image do not allow; leave it out")
    middle = (len(classes) + 1) // 2
    kept = classes[:middle] if half == "base" else classes[middle:]
    if len(kept) < 2:
        raise UserError(f"data.half={half} leaves {number_of(len(kept), 'class')} of {len(classes)}; it needs two")
    found.splits = {
        split: [entry for entry in entries if entry.labels[0] in set(kept)] for split, entries in found.splits.items()
    }
    return kept


def _classes(found: Found, config: DataConfig) -> tuple[str, ...]:
    path, train = config.path, found.splits.get("train", [])
    if found.classes is not None and found.splits.get("test") and not train:
        return found.classes  # a set made for testing alone
    if not train:
        raise UserError(f"data.path={path} has no training images; give some of them the split 'train'")
    classes = found.classes or tuple(sorted({label for entry in train for label in entry.labels}))
    if len(classes) < 2:
        raise UserError(
            f"data.path={path} has only one class ({classes[0]}); a classifier needs the images of at least two"
        )
    return classes


def _numbered(entries: Iterable[Entry], split: str, numbers: dict[str, int]) -> list[Record]:
    entries = list(entries)
    unknown = sorted({label for entry in entries for label in entry.labels} - set(numbers))
    if unknown:
        raise UserError(
            f"the {split} images have classes that training lacks: {listed(unknown)}; "
            "add training images of them or remove them"
        )
    return [
        Record(entry.name, entry.source, tuple(sorted(numbers[label] for label in entry.labels))) for entry in entries
    ]


def _with_validation(
    train: Sequence[Record], config: DataConfig, notes: list[str]
) -> tuple[list[Record], list[Record]]:
    kept, val = split_off(train, config.val_fraction, config.split_seed)
    if not val:
        raise UserError(
            "there is no validation split and no class has two images to split one off; add images or set data.val"
        )
    notes.append(
        f"split {len(val)} of {number_of(len(train), 'training image')} off for validation "
        f"(data.val_fraction={config.val_fraction:g}, data.split_seed={config.split_seed})"
    )
    return kept, val
