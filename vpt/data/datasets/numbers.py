"""Images with a number each, for regression: from the same files as classes, whose labels are read as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from vpt.config import DataConfig
from vpt.data.dataset import SPLITS, NumberData, NumberRecord
from vpt.data.datasets.digit_distances import read_distances
from vpt.data.datasets.digits import NAMES, read_digits
from vpt.data.datasets.entries import Entry, Found, NoTrainingImages, clean_names, listed, number_of
from vpt.data.datasets.registry import Readers, divided, read_splits, unique_files
from vpt.data.evaluation_data import EvaluationRequest, choice_notes, chosen, found_for, others_of
from vpt.data.groups import with_groups
from vpt.data.splits import with_slices
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line

LARGEST = 1e30
_COMMA = re.compile(r"[+-]?\d+,\d+")


def read_digit_values() -> Found:
    """The embedded digits with their values instead of their names."""
    found = read_digits()
    values = {name: (str(value),) for value, name in enumerate(NAMES)}
    found.splits = {
        split: [entry._replace(labels=values[entry.labels[0]]) for entry in entries]
        for split, entries in found.splits.items()
    }
    found.classes = None
    return found


EMBEDDED: Readers = {"digits": read_digit_values, "digit-distances": read_distances}


def load_numbers(config: DataConfig) -> NumberData:
    """Read the data set named by `config.path`: a CSV with a column of numbers, or folders whose names are numbers.

    Splits are as for classes: see `load_data`; all images count as one class.

    Raises:
        UserError: data that cannot be found or read, or labels that are no numbers.

    >>> sorted({record.number for record in load_numbers(DataConfig(path="digits")).test})[-1]
    9.0
    """
    found = read_splits(config, EMBEDDED, _refuse_blank)
    if not found.splits.get("train"):
        raise NoTrainingImages(f"data.path={config.path} has no training images; give some of them the split 'train'")
    name = name_of(config)
    read = sum(len(entries) for entries in found.splits.values())
    records = {split: _records(found.splits.get(split, ())) for split in SPLITS}
    if len({record.number for record in records["train"]}) < 2:
        raise UserError(f"all training images of data.path={config.path} have the same number")
    train, val, test, notes = divided(found, (name,), records, config, read)
    return NumberData((name,), False, train, val, test, notes, tuple(sorted((+found.left_out).items())))


def load_numbers_measured(config: DataConfig, request: EvaluationRequest) -> tuple[NumberData, str]:
    """Read the split to evaluate, and nothing else; also return its name. See `load_measured`.

    Raises:
        UserError: data that cannot be found or read, lacks the split, or has labels that are no numbers.
    """
    found, path = found_for(config, request.split or "test", (), EMBEDDED)
    _refuse_blank(found)
    clean_names(found)
    split = chosen(found.splits, found.divided, request.split, path)
    entries = unique_files(found.splits[split], config.separator, found)
    notes = (*found.notes, *choice_notes(found.splits, found.divided, split, request.split, path))
    left_out = tuple(sorted((+(found.left_out + others_of(found, split))).items()))
    split = request.split or (split if found.divided else "test")
    records = with_slices(with_groups(_records(entries), config), config)
    train, val, test = (records if name == split else () for name in SPLITS)
    return NumberData(request.classes or (name_of(config),), False, train, val, test, notes, left_out), split


def name_of(config: DataConfig) -> str:
    """The name of the number: that of its column.

    >>> name_of(DataConfig(label_column="age")), name_of(DataConfig())
    ('age', 'number')
    """
    return config.label_column or "number"


def number_of_label(text: str) -> float | None:
    """The number in a cell or a folder's name; None if it is none, infinite or larger than 1e30.

    >>> number_of_label("3.5"), number_of_label("1e-3"), number_of_label("3,5"), number_of_label("nan")
    (3.5, 0.001, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= LARGEST and "_" not in text else None


def _refuse_blank(found: Found) -> None:
    """Refuse images without a number, with several, or with another label."""
    every = [entry for entries in found.splits.values() for entry in entries]
    several = [entry for entry in every if len(entry.labels) > 1]
    bare = [entry for entry in every if not entry.labels]
    other = [entry for entry in every if len(entry.labels) == 1 and number_of_label(entry.labels[0]) is None]
    comma = next((entry.labels[0] for entry in other if _COMMA.fullmatch(entry.labels[0])), None)
    advice = f"; write {comma.replace(',', '.')} instead of {comma}" if comma else ""
    advice = advice or "; name the column of numbers, as in data.label_column=age, or use task=classification"
    _refuse(
        several, "with several labels", lambda entry: one_line("|".join(entry.labels)), "; regression needs one number"
    )
    _refuse(bare, "without a number", lambda entry: "", "; fill the numbers in")
    _refuse(other, "whose label is no number", lambda entry: f"'{one_line(entry.labels[0][:40])}'", advice)


def _refuse(entries: Sequence[Entry], what: str, label: Callable[[Entry], str], advice: str) -> None:
    if entries:
        names = [", ".join(filter(None, (entry.name, label(entry), entry.place))) for entry in entries]
        raise UserError(f"{number_of(len(entries), 'image')} {what}: {listed(names, 5)}{advice}")


def _records(entries: Sequence[Entry]) -> list[NumberRecord]:
    return [
        NumberRecord(
            entry.name, entry.source, (0,), place=entry.place, group=entry.group, number=float(entry.labels[0])
        )
        for entry in entries
    ]
