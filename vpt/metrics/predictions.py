"""Predictions of a run for each image of a split, as a CSV for people, spreadsheets and reports.

Cells that a spreadsheet would interpret as formulas are escaped, see vpt/utils/csv_cells.py; reading them returns the
original text.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpt.metrics.probabilities import probabilities
from vpt.utils.atomic_io import write_text
from vpt.utils.csv_cells import plain_cell, to_csv
from vpt.utils.errors import UserError

COLUMNS = ("image", "true", "predicted", "score", "score_of_true")


@dataclass(frozen=True)
class Answer:
    """The answer for one image: classes, joined by | if there are several, and scores from 0 to 1."""

    image: str
    true: str
    predicted: str
    score: float
    score_of_true: float

    @property
    def right(self) -> bool:
        """Whether the answer is correct."""
        return self.true == self.predicted


def answers_of(names: Sequence[str], logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[Answer]:
    """Answers from logits.

    Args:
        names: of the images.
        logits: (N, K).
        labels: (N,) class of each image, or (N, K) of 0 and 1 if images have several labels.
        classes: names of the K classes.

    >>> answers_of(["a.png"], np.array([[0.0, 9.0]]), np.array([0]), ["cat", "dog"])[0].predicted
    'dog'
    """
    found = []
    multilabel = labels.ndim == 2
    scores = probabilities(logits.astype(np.float64), multilabel)
    for name, row, shares, label in zip(names, logits, scores, labels, strict=True):
        if multilabel:
            true, chosen = np.flatnonzero(label), np.flatnonzero(row > 0)  # a probability above one half
        else:
            true, chosen = np.array([int(label)]), np.array([int(row.argmax())])
        found.append(
            Answer(name, _named(true, classes), _named(chosen, classes), _least(shares, chosen), _least(shares, true))
        )
    return found


def _named(which: np.ndarray, classes: Sequence[str]) -> str:
    return "|".join(classes[index] for index in which)


def _least(shares: np.ndarray, which: np.ndarray) -> float:
    return float(shares[which].min()) if len(which) else 0.0


def write_answers(path: Path, answers: Sequence[Answer]) -> Path:
    """Write a CSV with a header."""
    rows = [
        (answer.image, answer.true, answer.predicted, f"{answer.score:.6f}", f"{answer.score_of_true:.6f}")
        for answer in answers
    ]
    return write_text(path, to_csv([COLUMNS, *rows]))


def read_answers(path: Path) -> list[Answer]:
    """Read a file written by `write_answers`.

    Raises:
        UserError: a file that is missing or has an unexpected form.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_answer(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"the predictions {path} cannot be read: {error!r}") from None


def _answer(row: dict[str, str]) -> Answer:
    scores = float(row["score"]), float(row["score_of_true"])
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"scores must be finite, found {scores}")
    image, true, predicted = (plain_cell(row[column]) for column in COLUMNS[:3])
    return Answer(image, true, predicted, *scores)
