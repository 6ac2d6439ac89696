"""Confusion matrix, most confused pairs of classes, and metrics by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from vpt.metrics.predictions import Answer
from vpt.report.html import Column, Section, Table, count, percent, render
from vpt.report.svg_charts import Chart, picture, rectangle, tag
from vpt.utils.errors import UserError

AS_TABLE = 20  # most classes of a matrix shown as a table of numbers
AS_PICTURE = 200  # most classes of one drawn as an image
PAIRS = 12


@dataclass(frozen=True)
class Pair:
    """Images or pixels of one class that were misclassified as another."""

    true: str
    predicted: str
    count: int
    share: float  # of the true class


def matrix_of(answers: Sequence[Answer], classes: Sequence[str]) -> np.ndarray:
    """Confusion matrix (K, K) of counts, true classes in rows.

    Raises:
        UserError: an answer with an unknown class.

    >>> matrix_of([Answer("a.png", "cat", "dog", 0.9, 0.1)], ["cat", "dog"]).tolist()
    [[0, 1], [0, 0]]
    """
    place = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for answer in answers:
        if unknown := {answer.true, answer.predicted} - set(place):
            raise UserError(f"the predictions contain a class that the run does not have: {unknown.pop()}")
        counts[place[answer.true], place[answer.predicted]] += 1
    return counts


def confused_pairs(matrix: np.ndarray, classes: Sequence[str], most: int = PAIRS) -> list[Pair]:
    """The most frequently confused pairs of classes; of equal counts the larger fraction of the class comes first.

    >>> confused_pairs(np.array([[5, 1], [0, 4]]), ["cat", "dog"])
    [Pair(true='cat', predicted='dog', count=1, share=0.16666666666666666)]
    """
    totals = matrix.sum(1)
    found = [
        Pair(classes[row], classes[column], int(matrix[row, column]), float(matrix[row, column] / totals[row]))
        for row, column in np.argwhere(matrix)
        if row != column
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share))[:most]


def label_errors(answers: Sequence[Answer]) -> tuple[Counter[str], Counter[str]]:
    """For multi-label images: how often each label was missed, and how often it was predicted wrongly.

    >>> label_errors([Answer("a.png", "cat|dog", "dog|owl", 0.9, 0.1)])
    (Counter({'cat': 1}), Counter({'owl': 1}))
    """
    missed: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for answer in answers:
        true, said = labels_in(answer.true), labels_in(answer.predicted)
        missed.update(true - said)
        added.update(said - true)
    return missed, added


def labels_in(joined: str) -> set[str]:
    """Labels of an answer, which are joined by |.

    >>> labels_in("")
    set()
    """
    return set(joined.split("|")) if joined else set()


def section(
    measured: Mapping[str, Any], answers: Sequence[Answer], classes: Sequence[str], multilabel: bool
) -> Section:
    """Matrix, pairs and classes of one run, from its metrics, or from its answers if there are no metrics."""
    tables: list[Table] = []
    charts: list[Markup] = []
    text = ""
    matrix: np.ndarray | None = None
    if not multilabel:
        given = measured.get("confusion")
        matrix = np.asarray(given) if given is not None else matrix_of(answers, classes) if answers else None
    if matrix is not None:
        text = f"{int(np.trace(matrix)):,} of {int(matrix.sum()):,} images are correct."
        charts, tables = drawings(matrix, classes)
    every = class_table(measured, answers if multilabel else ())
    if every is not None:
        # With many classes the table is not what readers look at first.
        tables.insert(0 if len(classes) <= AS_TABLE else len(tables), every)
    return Section("classes", "Classes", render("confusion.html", text=text, matrices=charts, tables=tables))


def drawings(
    matrix: np.ndarray, classes: Sequence[str], unit: str = "images", shares: bool = False
) -> tuple[list[Markup], list[Table]]:
    """The matrix (K, K) as a table or a picture, as the number of classes allows, and the most confused pairs.

    Args:
        matrix: counts, true classes in rows.
        classes: names.
        unit: what is counted.
        shares: show percentages of the true class instead of counts.
    """
    charts: list[Markup] = []
    if len(classes) <= AS_TABLE:
        rounded = (100 * matrix / np.maximum(1, matrix.sum(1, keepdims=True))).round().astype(np.int64)
        charts.append(_as_table(rounded if shares else matrix, classes))
    elif len(classes) <= AS_PICTURE:
        charts.append(render("figure.html", chart=_as_picture(matrix, classes), kind="square"))
    pairs = confused_pairs(matrix, classes)
    return charts, [_pairs_table(pairs, unit)] if pairs and len(classes) > 2 else []


def class_table(measured: Mapping[str, Any], several: Sequence[Answer] = ()) -> Table | None:
    """Precision, recall and F1 of every class; `several` are multi-label answers, whose errors are counted."""
    if not measured.get("per_class"):
        return None
    columns = [Column("class", "text"), *(Column(name) for name in ("images", "precision", "recall", "F1"))]
    averages = "average_precision" in measured["per_class"][0]
    missed, added = label_errors(several)
    if averages:
        columns.append(Column("average precision"))
    if several:
        columns += [Column("missed"), Column("false positives")]
    rows = []
    for row in measured["per_class"]:
        cells = [row["class"], row["support"], *(percent(row[key]) for key in ("precision", "recall", "f1"))]
        if averages:
            cells.append(percent(row.get("average_precision")))
        if several:
            cells += [missed[row["class"]], added[row["class"]]]
        rows.append(cells)
    return Table("metrics by class", columns, rows, sortable=True)


def _pairs_table(pairs: Sequence[Pair], unit: str) -> Table:
    columns = [Column("true", "text"), Column("predicted", "text"), Column(unit), Column("fraction of class")]
    rows = [[pair.true, pair.predicted, count(pair.count), percent(pair.share)] for pair in pairs]
    return Table("most frequently confused", columns, rows)


def _as_table(matrix: np.ndarray, classes: Sequence[str]) -> Markup:
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    rows = [
        (
            name,
            [
                {
                    "count": int(matrix[row, column]),
                    # A single mistake among many images must still be visible.
                    "strength": round(0.15 + 0.85 * float(share[row, column]) ** 0.5, 2) if matrix[row, column] else 0,
                    "right": row == column,
                    "text": f"{name} predicted as {classes[column]}: {percent(float(share[row, column]))}",
                }
                for column in range(len(classes))
            ],
        )
        for row, name in enumerate(classes)
    ]
    return render("matrix.html", classes=classes, rows=rows)


def _as_picture(matrix: np.ndarray, classes: Sequence[str]) -> Chart:
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    size, side = len(classes), 400 / len(classes)
    parts = [tag("rect", x=0, y=0, width=400, height=400, class_="field")]
    for row, column in np.argwhere(matrix):
        label = f"{classes[row]} predicted as {classes[column]}: {matrix[row, column]}"
        look = "cell t0" if row == column else "cell t1"
        opacity = f"{0.2 + 0.8 * float(share[row, column]) ** 0.5:.2f}"
        parts.append(rectangle(label, column * side, row * side, side, side, class_=look, opacity=opacity))
    description = f"Confusion matrix of {size} classes; the most frequently confused pairs are listed in a table"
    text = (
        "Rows are true classes, columns predicted ones, both in the order of the table. Hover over a cell for details."
    )
    legend = [("t0", "correct"), ("t1", "wrong")]
    return Chart("confusion matrix", picture(description, parts, 400, 400), legend, text)
