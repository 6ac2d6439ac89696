"""`load_data`: from the data section of the config to numbered, split records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.class_names import alike, clean, doubtful, visible
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.class_list import classes_of, half_of
from vpt.data.datasets.csv import is_csv, read_table
from vpt.data.datasets.dassl import read_dassl
from vpt.data.datasets.digit_distances import read_digit_distances
from vpt.data.datasets.digits import read_digits
from vpt.data.datasets.entries import Entry, Found, clean_names, entries_for, listed, number_of
from vpt.data.datasets.fgvc import read_fgvc
from vpt.data.datasets.hugging_face import read_hugging_face
from vpt.data.datasets.image_folder import read_folder, read_split_folder
from vpt.data.datasets.paths import file_identity
from vpt.data.datasets.torchvision import read_torchvision
from vpt.data.datasets.vtab import read_vtab
from vpt.data.datasets.webdataset import read_webdataset
from vpt.data.groups import shared_groups, with_groups
from vpt.data.splits import TEST, VALIDATION, draw_shots, set_apart, split_off, with_fold, with_slices
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError, nearest
from vpt.utils.plugins import installed, load_installed, said

# Data sets that are named `FORMAT:NAME`, as in data=vtab:dtd; installed packages add theirs as entry points of GROUP.
Reader = Callable[[str, DataConfig], Found]
FORMATS: dict[str, Reader] = {
    "dassl": lambda name, config: read_dassl(name, at_home(config.root)),
    "vtab": lambda name, config: read_vtab(name, at_home(config.root)),
    "fgvc": lambda name, config: read_fgvc(name, at_home(config.root)),
    "torchvision": lambda name, config: read_torchvision(name, at_home(config.root), config.download),
    "hf": read_hugging_face,
    "wds": lambda name, config: read_webdataset(name, config.label_column),
}
GROUP = "vpt.datasets"
# Data sets that are created on first use, without a download.
Readers = Mapping[str, Callable[[], Found]]
EMBEDDED: Readers = {"digits": read_digits, "digit-distances": read_digit_distances}

# Reasons why images that were read are not used, as reported by `vpt data check`.
REPEATED, UNUSED = "repeated", "not drawn or asked for"


def load_data(config: DataConfig) -> LabelledData:
    """Read the data set named by `config.path` and determine classes and splits. No image is opened, except to
    list slices (`data.slices=all`).

    The training classes, sorted, are numbered; validation and test use the same numbers. Without a validation split,
    `val_fraction` of each class is split off training; then `shots` images per class are drawn from training (all of a
    class that has fewer, with a note).

    Raises:
        UserError: the data cannot be found or used; the message names the problem and the remedy.

    >>> load_data(DataConfig(path="no/such/folder"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no folder no/such/folder; check data.path
    """
    found = read_splits(config)
    classes = classes_of(found, config)
    found.notes += doubtful(classes)
    read = sum(len(entries) for entries in found.splits.values())
    if config.half != "all":
        classes = half_of(found, classes, config.half)
    numbers = {name: number for number, name in enumerate(classes)}
    records = {split: _numbered(found.splits.get(split, ()), split, numbers) for split in SPLITS}
    train, val, test, notes = divided(found, classes, records, config, read)
    return LabelledData(classes, found.multilabel, train, val, test, notes, tuple(sorted((+found.left_out).items())))


def read_splits(
    config: DataConfig, embedded: Readers = EMBEDDED, refuse: Callable[[Found], None] | None = None
) -> Found:
    """The entries of a data set, with `data.val` and `data.test`, and without repetitions.

    Args:
        config: the data section.
        embedded: readers of the data sets that come with vpt.
        refuse: raises a UserError for labels that cannot be used; default: `refuse_unlabelled`.

    Raises:
        UserError: data that cannot be found or read; a file with several labels or in two splits.
    """
    found = read_source(config, embedded=embedded)
    for split, path in (("val", config.val), ("test", config.test)):
        if path is not None:
            _override(found, split, at_home(path), config)
    found.multilabel |= config.multilabel
    (refuse or refuse_unlabelled)(found)
    clean_labels(found)
    clean_names(found)
    for split, entries in found.splits.items():
        found.splits[split] = unique_files(entries, config.separator, found)
    _refuse_shared(found.splits)
    return found


def divided(
    found: Found, classes: Sequence[str], records: Mapping[str, Sequence[Record]], config: DataConfig, read: int
) -> tuple[tuple[Record, ...], tuple[Record, ...], tuple[Record, ...], tuple[str, ...]]:
    """Training, validation and test records as the settings say, and messages for the user.

    Args:
        found: what the records were made of; gets the number of those that are not used.
        classes: names of the classes.
        records: of each split of the data set.
        config: the data section.
        read: number of entries that were read.

    Raises:
        UserError: no such fold, or too few images to split validation off.
    """
    train, val, test = (with_groups(records[split], config) for split in SPLITS)
    notes = [*found.notes, *shared_groups({"train": train, "val": val, "test": test})]
    divided = with_fold(train, val, test, config, notes, lambda whole: _there(whole, found.absent))
    train, val, test = (list(records) for records in divided)
    if not test and config.test_fraction is not None:
        train, test = split_off(train, config.test_fraction, config.split_seed, TEST, _there(train, found.absent))
        notes.append(
            f"split {number_of(len(test), 'image')} off for test (data.test_fraction={config.test_fraction:g})"
        )
    if not val and train:
        train, val = _with_validation(train, config, notes, found.absent)
    if config.shots is not None:
        train, short = draw_shots(_there(train, found.absent), config.shots, config.split_seed, found.multilabel)
        if short:
            few = [f"{classes[label]} ({count})" for label, count in short.items()]
            what = "images" if config.group is None else "groups"
            notes.append(f"fewer training {what} than data.shots={config.shots}, so all are used: {listed(few)}")
    train, val, test = set_apart(train, val, test, config, found.multilabel)
    found.left_out[UNUSED] += read - len(train) - len(val) - len(test)
    one, two, three = (with_slices(split, config) for split in (train, val, test))
    return one, two, three, tuple(notes)


def read_source(config: DataConfig, known: Collection[str] | None = None, embedded: Readers = EMBEDDED) -> Found:
    """Read the data set named by `config.path`, with labels as they are written.

    Args:
        config: the data section.
        known: the classes of an artifact to evaluate, for which no training images are needed.
        embedded: readers of the data sets that come with vpt.

    Raises:
        UserError: data that cannot be found or read.
    """
    name, colon, rest = config.path.partition(":")
    if config.path in embedded:
        return embedded[config.path]()
    if colon and name in FORMATS:
        return FORMATS[name](rest, config)
    path = at_home(config.path)
    if colon and not path.exists():
        added = installed(GROUP)
        if name in added:
            return _read_added(added[name], rest, config)
        if meant := nearest(name, [*FORMATS, *added]):
            raise UserError(f"data.path={config.path}: there is neither such a folder nor a format '{name}'{meant}")
    if is_csv(path):
        return read_table(path, config)
    if os.path.isfile(path):
        raise UserError(
            f"data.path={config.path} is a file but not a CSV; give a folder of class folders or a .csv file, "
            "or for boxes set task=detection"
        )
    try:
        return read_folder(path, known)
    except UserError:
        # Layouts of detection data look like broken class folders.
        from vpt.data.detection.formats import layout_of

        if (layout := layout_of(path)) is not None:
            raise UserError(f"data.path={config.path} contains boxes ({layout}); set task=detection") from None
        raise


def _read_added(point: EntryPoint, name: str, config: DataConfig) -> Found:
    """What the reader of an installed package finds under a name."""
    reader = load_installed(point)
    try:
        found = reader(name, config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.path={config.path} cannot be read by {point.value}: {said(error)}") from error
    if not isinstance(found, Found):
        raise UserError(f"{point.value} gives a {type(found).__name__}, not a vpt.data.datasets.entries.Found")
    return found


def _override(found: Found, split: str, path: Path, config: DataConfig) -> None:
    """Replace one split by the images of a separate folder or CSV."""
    other = read_table(path, config) if is_csv(path) else read_split_folder(path)
    entries = entries_for(split, other.splits, path)
    if before := found.splits.get(split):
        found.notes.append(f"data.{split}={path} is used instead of the {split} images of data.path")
        found.left_out[UNUSED] += len(before)
    found.splits[split] = renamed(entries, path)
    found.multilabel |= other.multilabel
    found.notes += other.notes
    found.left_out += other.left_out
    found.left_out[UNUSED] += sum(map(len, other.splits.values())) - len(entries)


def renamed(entries: Iterable[Entry], path: Path) -> list[Entry]:
    """Prefix names with the folder or file that they come from, because two folders often contain the same names."""
    return [entry._replace(name=f"{path.stem}/{entry.name}") for entry in entries]


def refuse_unlabelled(found: Found) -> None:
    """Refuse images without a label, unless images may have several: then they are negatives of every class."""
    bare = [entry for entries in found.splits.values() for entry in entries if not entry.labels]
    if bare and not found.multilabel:
        names = listed([f"{entry.name} ({entry.place})" if entry.place else entry.name for entry in bare])
        raise UserError(
            f"{number_of(len(bare), 'image')} without a label: {names}; fill the labels in, or set "
            "data.multilabel=true if an image may have none of the classes, or several"
        )


def clean_labels(found: Found) -> None:
    """Normalise class names, and report which were written differently. A data set with its own list of classes keeps
    it."""
    if found.classes is not None:
        return
    written: Counter[str] = Counter()
    for split, entries in found.splits.items():
        for entry in entries:
            written.update(label for label in entry.labels if label != (clean(label) or label))
        found.splits[split] = [
            entry._replace(labels=tuple(dict.fromkeys(clean(label) or label for label in entry.labels)))
            for entry in entries
        ]
    if written:
        pairs = [
            f"{visible(label)} as {clean(label)} ({number_of(count, 'image')})"
            for label, count in sorted(written.items())
        ]
        found.notes.append(
            "class names are read without surrounding spaces and invisible characters, in one Unicode form: "
            f"{listed(pairs)}"
        )


def unique_files(entries: list[Entry], separator: str, found: Found) -> list[Entry]:
    """Drop repetitions of a file: otherwise a random split could put the same image on both sides.

    Raises:
        UserError: a file with several classes.
    """
    first: dict[Hashable, Entry] = {}
    kept: list[Entry] = []
    for entry in entries:
        if not isinstance(entry.source, Path):
            return entries
        identity = file_identity(entry.source)
        if isinstance(identity, str):
            found.absent.add(entry.source)
        before = first.setdefault(identity, entry)
        if before is entry:
            kept.append(entry)
        elif set(before.labels) != set(entry.labels):
            raise UserError(
                f"the same file has different labels: {_described(before)} and {_described(entry)}; keep it in one "
                f"place, or for multi-label data list it once in a CSV file with its labels joined by '{separator}'"
            )
    if repeated := len(entries) - len(kept):
        found.notes.append(f"left out {number_of(repeated, 'repetition')} of a file with the same label")
        found.left_out[REPEATED] += repeated
    return kept


def _described(entry: Entry) -> str:
    place = f"; {entry.place}" if entry.place else ""
    return f"{entry.name} ({', '.join(entry.labels) or 'no label'}{place})"


def _refuse_shared(splits: dict[str, list[Entry]]) -> None:
    owners: dict[Hashable, tuple[str, str]] = {}
    shared: list[str] = []
    for split in SPLITS:
        for entry in splits.get(split, []):
            if not isinstance(entry.source, Path):
                break
            before, name = owners.setdefault(file_identity(entry.source), (split, entry.name))
            if before != split:
                shared.append(f"{name} ({before}) is {entry.name} ({split})")
    if shared:
        raise UserError(
            f"{number_of(len(shared), 'file')} in two splits, which makes the score meaningless: {listed(shared)}; "
            "keep each in one split only"
        )


def _numbered(entries: Iterable[Entry], split: str, numbers: dict[str, int]) -> list[Record]:
    entries = list(entries)
    unknown = unknown_classes(entries, numbers)
    if unknown:
        raise UserError(
            f"the {split} images have classes that training lacks: {listed(unknown)}; "
            "add training images of them, or move these out of the split"
        )
    return [record_of(entry, numbers) for entry in entries]


def unknown_classes(entries: Iterable[Entry], known: Collection[str]) -> list[str]:
    """The classes of entries that are not known, each with its images and the known name that may be meant.

    >>> unknown_classes([Entry("a/1.png", Path("1.png"), ("Cat",))], ["cat", "dog"])
    ["Cat (1 image, first a/1.png; did you mean 'cat'?)"]
    """
    firsts: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for entry in entries:
        for label in entry.labels:
            if label not in known:
                firsts.setdefault(label, entry)
                counts[label] += 1
    return [
        f"{visible(label)} ({number_of(counts[label], 'image')}, first {first.name}"
        f"{f' in {first.place}' if first.place else ''}{alike(label, known)})"
        for label, first in sorted(firsts.items())
    ]


def record_of(entry: Entry, numbers: Mapping[str, int]) -> Record:
    """Convert an entry to a record with numeric labels."""
    labels = tuple(sorted(numbers[label] for label in entry.labels))
    return Record(entry.name, entry.source, labels, place=entry.place, group=entry.group)


def _there(records: Sequence[Record], absent: Collection[Path]) -> Sequence[Record]:
    if not absent:
        return records
    return [record for record in records if not isinstance(record.source, Path) or record.source not in absent]


def _with_validation(
    train: Sequence[Record], config: DataConfig, notes: list[str], absent: Collection[Path]
) -> tuple[list[Record], list[Record]]:
    kept, val = split_off(train, config.val_fraction, config.split_seed, VALIDATION, _there(train, absent))
    if not val and config.join_val:
        return kept, []  # one image per class: train on all of them, without validation
    if not val:
        raise UserError(
            f"there is no validation split and no class has two {'images' if config.group is None else 'groups'} to "
            "split one off; add images or set data.val"
        )
    if config.join_val:
        return kept, val
    notes.append(
        f"split {len(val)} of {number_of(len(train), 'training image')} off for validation "
        f"(data.val_fraction={config.val_fraction:g}, data.split_seed={config.split_seed})"
    )
    return kept, val
