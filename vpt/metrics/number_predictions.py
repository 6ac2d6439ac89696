"""Predicted numbers of a run for each image of a split, as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpt.utils.atomic_io import write_text
from vpt.utils.csv_cells import plain_cell, to_csv
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class NumberAnswer:
    """The predicted and the true number of one image."""

    image: str
    true: float
    predicted: float
    group: str = ""  # its number, not its name

    @property
    def error(self) -> float:
        """How far the prediction is away."""
        return abs(self.predicted - self.true)


def numbered_groups(groups: Sequence[str]) -> list[str]:
    """Numbers instead of names of groups, because they may name patients; "" for no group.

    >>> numbered_groups(["Ann", "", "Bob", "Ann"])
    ['1', '', '2', '1']
    """
    numbers = {group: str(number) for number, group in enumerate(dict.fromkeys(filter(None, groups)), 1)}
    return [numbers.get(group, "") for group in groups]


def write_numbers(path: Path, answers: Sequence[NumberAnswer], folds: Sequence[int] = ()) -> Path:
    """Write a CSV with a header, with groups and folds if there are any."""
    grouped = any(answer.group for answer in answers)
    header = ("image", "true", "predicted", *(["group"] if grouped else []), *(["fold"] if folds else []))
    rows = [
        (one.image, repr(one.true), f"{one.predicted:.9g}", *([one.group] if grouped else []), *folds[at : at + 1])
        for at, one in enumerate(answers)
    ]
    return write_text(path, to_csv([header, *rows]))


def read_numbers(path: Path) -> list[NumberAnswer]:
    """Read a file written by `write_numbers`.

    Raises:
        UserError: a file that is missing or has an unexpected form.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_answer(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"the predictions {path} cannot be read: {error!r}") from None


def _answer(row: dict[str, str]) -> NumberAnswer:
    numbers = float(plain_cell(row["true"])), float(plain_cell(row["predicted"]))
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"numbers must be finite, found {numbers}")
    return NumberAnswer(plain_cell(row["image"]), *numbers, row.get("group") or "")
