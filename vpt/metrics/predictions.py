"""Predictions of a run for each image of a split, as a CSV for people, spreadsheets and reports.

Cells that a spreadsheet would interpret as formulas are escaped, see vpt/utils/csv_cells.py; reading them returns the
original text.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpt.metrics.probabilities import probabilities
from vpt.utils.atomic_io import write_text
from vpt.utils.csv_cells import plain_cell, to_csv
from vpt.utils.errors import UserError

MOST = 100  # classes of which all scores are written
SCORE = "score of "
COLUMNS = ("image", "true", "predicted", "score", "score_of_true")


@dataclass(frozen=True)
class Answer:
    """The answer for one image: classes, joined by | if there are several, and scores from 0 to 1."""

    image: str
    true: str
    predicted: str
    score: float
    score_of_true: float
    group: str = ""  # its number, not its name
    scores: tuple[tuple[str, float], ...] = ()  # of all classes, if they are not too many

    @property
    def right(self) -> bool:
        """Whether the answer is correct."""
        return self.true == self.predicted


def answers_of(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] = (),
) -> list[Answer]:
    """Answers from logits.

    Args:
        names: of the images.
        logits: (N, K).
        labels: (N,) class of each image, or (N, K) of 0 and 1 if images have several labels.
        classes: names of the K classes.
        groups: group of each image. They are numbered, because they may name patients.

    >>> answers_of(["a.png"], np.array([[0.0, 9.0]]), np.array([0]), ["cat", "dog"])[0].predicted
    'dog'
    """
    found = []
    multilabel = labels.ndim == 2
    scores = probabilities(logits.astype(np.float64), multilabel)
    own = numbered_groups(groups) or [""] * len(names)
    for name, row, shares, label, group in zip(names, logits, scores, labels, own, strict=True):
        if multilabel:
            true, chosen = np.flatnonzero(label), np.flatnonzero(row > 0)  # a probability above one half
        else:
            true, chosen = np.array([int(label)]), np.array([int(row.argmax())])
        least = _least(shares, chosen), _least(shares, true)
        each = tuple(zip(classes, shares.tolist())) if len(classes) <= MOST else ()
        found.append(Answer(name, _named(true, classes), _named(chosen, classes), *least, group, each))
    return found


def numbered_groups(groups: Iterable[str]) -> list[str]:
    """Numbers for the groups of images, which may name patients; "" stays.

    >>> numbered_groups(["P7", "P9", "P7", ""])
    ['1', '2', '1', '']
    """
    groups = list(groups)
    numbers = {group: str(number) for number, group in enumerate(dict.fromkeys(groups), 1) if group}
    return [numbers.get(group, "") for group in groups]


def _named(which: np.ndarray, classes: Sequence[str]) -> str:
    return "|".join(classes[index] for index in which)


def _least(shares: np.ndarray, which: np.ndarray) -> float:
    return float(shares[which].min()) if len(which) else 0.0


def write_answers(path: Path, answers: Sequence[Answer], folds: Sequence[int] = ()) -> Path:
    """Write a CSV with a header; with groups and folds, and the scores of all classes unless they are many."""
    grouped = any(answer.group for answer in answers)
    classes = [name for name, _ in answers[0].scores] if answers else []
    header = (
        *COLUMNS,
        *(["group"] if grouped else []),
        *(["fold"] if folds else []),
        *(f"{SCORE}{name}" for name in classes),
    )
    rows = [
        (
            answer.image,
            answer.true,
            answer.predicted,
            f"{answer.score:.6f}",
            f"{answer.score_of_true:.6f}",
            *([answer.group] if grouped else []),
            *(folds[at : at + 1]),
            *(f"{score:.9g}" for _, score in answer.scores),
        )
        for at, answer in enumerate(answers)
    ]
    return write_text(path, to_csv([header, *rows]))


def read_answers(path: Path, places: Collection[int] | None = None) -> list[Answer]:
    """Read a file written by `write_answers`, or only the rows at some places, counted from 0.

    Raises:
        UserError: a file that is missing or has an unexpected form.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = enumerate(csv.DictReader(file))
            return [_answer(row) for number, row in rows if places is None or number in places]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"the predictions {path} cannot be read: {error!r}") from None


def _answer(row: dict[str, str]) -> Answer:
    scores = float(row["score"]), float(row["score_of_true"])
    each = tuple(
        (plain_cell(name).removeprefix(SCORE), float(cell))
        for name, cell in row.items()
        if name and name.startswith(SCORE)
    )
    if not all(map(math.isfinite, (*scores, *(score for _, score in each)))):
        raise ValueError(f"scores must be finite, found {scores}")
    image, true, predicted = (plain_cell(row[column]) for column in COLUMNS[:3])
    return Answer(image, true, predicted, *scores, row.get("group") or "", each)
