"""Detection: predicted and true boxes, precision-recall curves, and metrics by class and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.data.detection.dataset import BoxRecord
from vpt.metrics.coco_map import match, overlaps
from vpt.metrics.detection_plots import uncovered
from vpt.report.html import Column, Section, Table, percent, render
from vpt.report.image_encoding import photo_uri, small
from vpt.report.svg_charts import Chart, Line, line_chart, rectangle, tag

SIDE = 320
DRAWN = 10  # most predicted boxes drawn for one image
LETTER, LINE = 7.6, 14.0  # approximate width of a caption's letter, and its height
OVERLAP = 0.5
SIZES = {"map_small": "small, under 32² pixels", "map_medium": "medium", "map_large": "large, over 96² pixels"}


@dataclass(frozen=True)
class Judged:
    """Predicted and true boxes of one image, matched.

    Args:
        right: for each predicted box, whether it matches a true one of its class or lies in a crowd.
        found: for each true box, whether it was found or is a crowd.
    """

    right: Sequence[bool]
    found: Sequence[bool]

    @property
    def errors(self) -> int:
        """Number of false alarms and missed boxes."""
        return self.right.count(False) + self.found.count(False)


def judge(
    predicted: Sequence[tuple[str, float, Sequence[float]]],
    wanted: Sequence[tuple[str, Sequence[float]]],
    crowds: Sequence[bool] = (),
    least: float = OVERLAP,
) -> Judged:
    """Match predicted and true boxes as COCO does.

    Args:
        predicted: label, score, box.
        wanted: label, box.
        crowds: which of the true boxes are crowds; default: none. A crowd cannot be missed, and an unmatched box in it
            counts as correct.
        least: minimum overlap of a match.

    >>> judge([("cat", 0.9, [0, 0, 2, 2]), ("cat", 0.8, [0, 0, 2, 2])], [("cat", [0, 0, 2, 2])])
    Judged(right=[True, False], found=[True])
    """
    crowd = np.array(crowds or [False] * len(wanted), bool)
    right, found = np.zeros(len(predicted), bool), crowd.copy()
    order = np.argsort([-score for _, score, _ in predicted], kind="stable")
    for label in {label for label, _ in wanted}:
        mine = np.array([at for at in order if predicted[at][0] == label], int)
        theirs = np.array([at for at, one in enumerate(wanted) if one[0] == label])
        some = np.array([predicted[at][2] for at in mine], float).reshape(-1, 4)
        table = overlaps(some, np.array([wanted[at][1] for at in theirs], float), crowd[theirs])
        hits, ignored, taken = match(table, crowd[theirs], np.array([least]))
        right[mine] = hits[0] | ignored[0]
        found[theirs] |= taken[0]
    return Judged(right.tolist(), found.tolist())


def numbers_section(measured: Mapping[str, Any]) -> Section:
    """Curves, classes and sizes, from the metrics of the run."""
    charts = [precision_chart({"": measured})] if measured.get("precision") else []
    sizes = [[name, percent(measured[key])] for key, name in SIZES.items() if key in measured]
    tables = []
    if measured.get("per_class"):
        rows = [[row["class"], row["boxes"], percent(row["map"])] for row in measured["per_class"]]
        heads = [Column("class", "text"), Column("boxes"), Column("mAP")]
        tables.append(Table("metrics by class", heads, rows, sortable=True))
    if sizes:
        tables.append(Table("mAP by size of the true boxes", [Column("boxes", "text"), Column("mAP")], sizes))
    body = render("detection.html", charts=charts, tables=tables)
    return Section("boxes", "Precision and recall", body)


def precision_chart(named: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Precision over recall: of one run at two overlaps and on average; of several runs on average."""
    lines = []
    for number, (name, measured) in enumerate(named.items()):
        curves = measured["precision"]
        keys = [("0.50", "overlap 0.50"), ("0.75", "overlap 0.75"), ("mean", "mean of 0.50 to 0.95")]
        for tone, (key, label) in enumerate(keys if len(named) == 1 else [("mean", name)]):
            values = curves[key]
            points = list(zip(np.linspace(0, 1, len(values)).tolist(), values, strict=True))
            lines.append(Line(label, points, tone if len(named) == 1 else number))
    return line_chart("precision, mean over classes", lines, "recall", percent=True, span=(0.0, 1.02))


def pictures_section(
    rows: Sequence[Mapping[str, Any]],
    records: Mapping[str, Record],
    classes: Sequence[str],
    most: int,
    max_pixels: int,
    least: float,
) -> Section:
    """Images with their true and predicted boxes, from the one with the most errors to the one with the fewest."""
    judged: list[tuple[Judged, BoxRecord, list[tuple[str, float, list[float]]]]] = []
    for row in rows:
        record = records.get(row["image"])
        if isinstance(record, BoxRecord):
            sure = [(box["label"], box["score"], box["box_xyxy"]) for box in row["boxes"] if box["score"] >= least]
            truth = [(classes[label], box) for label, box in zip(record.labels, record.boxes, strict=True)]
            judged.append((judge(sure, truth, record.crowds), record, sure))
    ranked = sorted(judged, key=lambda one: -one[0].errors)
    chosen = [ranked[at] for at in _spread(len(ranked), most)]
    tiles = [tile for number, one in enumerate(chosen) if (tile := _tile(number, *one, classes, max_pixels))]
    body = render(
        "boxes.html",
        tiles=tiles,
        score=least,
        drawn=DRAWN,
        overlap=OVERLAP,
        table=error_table([(each, record, sure) for each, record, sure in judged], classes, least),
        images=len(judged),
    )
    return Section("pictures", "Predictions and ground truth", body)


def error_table(
    judged: Sequence[tuple[Judged, BoxRecord, Sequence[tuple[str, float, Sequence[float]]]]],
    classes: Sequence[str],
    least: float,
) -> Table:
    """For every class: number of true boxes (without crowds), found and missed ones, and false alarms."""
    there, found, alarms = (dict.fromkeys(classes, 0) for _ in range(3))
    for each, record, sure in judged:
        for label, hit, crowd in zip(record.labels, each.found, record.crowds, strict=True):
            there[classes[label]] += not crowd
            found[classes[label]] += hit and not crowd
        for (label_name, _, _), right in zip(sure, each.right, strict=True):
            alarms[label_name] = alarms.get(label_name, 0) + (not right)
    rows = [[name, there[name], found[name], there[name] - found[name], alarms[name]] for name in classes]
    heads = [Column("class", "text"), *(Column(name) for name in ("boxes", "found", "missed", "false alarms"))]
    return Table(f"boxes with a score of at least {least:g}", heads, rows, sortable=True)


def _spread(count: int, most: int) -> list[int]:
    """Indices spread evenly from first to last.

    >>> _spread(10, 4)
    [0, 3, 6, 9]
    """
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most)).tolist()}) if count else []


def _tile(
    number: int,
    judged: Judged,
    record: BoxRecord,
    sure: Sequence[tuple[str, float, Sequence[float]]],
    classes: Sequence[str],
    max_pixels: int,
) -> dict[str, Any] | None:
    try:
        pixels = read(record, max_pixels).pixels
    except BadImage:
        return None
    shown = small(pixels, SIDE)
    scale = SIDE / max(pixels.shape[:2])  # smaller images are enlarged, so that lines and names keep their size
    high, wide = (side * scale for side in pixels.shape[:2])
    truth = [
        (box, classes[label], "found" if hit else "missed")
        for label, box, hit in zip(record.labels, record.boxes, judged.found, strict=True)
    ]
    best = sorted(zip(sure, judged.right, strict=True), key=lambda pair: (not pair[1], -pair[0][1]))[:DRAWN]
    guess = [(box, f"{label} {score:.2f}", "found" if right else "alarm") for (label, score, box), right in best]
    return {
        "id": f"scene{number}",
        "name": record.name,
        "uri": photo_uri(shown),
        "wide": f"{wide:.0f}",
        "high": f"{high:.0f}",
        "truth": _drawing(truth, scale, wide),
        "guess": _drawing(guess, scale, wide),
        "found": judged.found.count(True) - sum(record.crowds),
        "there": len(judged.found) - sum(record.crowds),
        "alarms": judged.right.count(False),
    }


def _drawing(boxes: Sequence[tuple[Sequence[float], str, str]], scale: float, wide: float) -> Markup:
    """Boxes with captions, the first ones on top. A caption that would cover an earlier one is shown only as a tooltip
    of its box."""
    rects, labels, places = [], [], []
    for corners, caption, kind in boxes:
        x1, y1, x2, y2 = (edge * scale for edge in corners)
        rect = rectangle(caption, x1, y1, max(0, x2 - x1), max(0, y2 - y1))
        rects.append(tag("g", rect, class_=f"box {kind}"))
        length = LETTER * len(caption)
        x, y = max(0.0, min(x1 + 3, wide - length)), y1 - 4 if y1 > 16 else y1 + 14
        places.append((x, y - LINE, x + length, y))
        labels.append(tag("g", tag("text", caption, x=f"{x:.1f}", y=f"{y:.1f}"), class_=f"box {kind}"))
    free = [label for label, shown in zip(labels, uncovered(places), strict=True) if shown]
    return Markup("").join([*reversed(rects), *free])
