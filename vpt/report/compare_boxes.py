"""Detection runs on the same images: the difference of their mAP, with an interval by resampling the images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpt.data.boxes.records import BoxRecord
from vpt.data.records import LabelledData
from vpt.detection.matching import Boxes, Matches, match_all, mean_average_precision
from vpt.errors import UserError
from vpt.report.agreement import Gain, gain, shared_images, verdict
from vpt.report.compare import several_pairs
from vpt.report.html import Column, Section, Table, percent, points, render

DRAWS = 1000
BLOCK = 50  # draws that are computed at once; more would only take memory


@dataclass(frozen=True)
class Scored:
    """Runs on the images that all of them answered.

    Args:
        images: how many.
        score: mAP of each run on them.
        pairs: every pair of runs, the second against the first.
    """

    images: int
    score: Mapping[str, float]
    pairs: Sequence[tuple[str, str, Gain]]


def scored(runs: Mapping[str, tuple[Sequence[Mapping[str, Any]], LabelledData]], split: str) -> Scored:
    """Compare runs by their predicted boxes.

    Args:
        runs: name -> what `predictions-test.json` holds, and the data the run was measured on.
        split: test or val.

    Raises:
        UserError: fewer than two runs, no image in common, or another truth for the same image.
    """
    if len(runs) < 2:
        raise UserError("fewer than two of the runs have written their predictions")
    said = {run: {row["image"]: row["boxes"] for row in rows} for run, (rows, _) in runs.items()}
    truth = {
        run: {name: boxes for name, boxes in _truth(data, split).items() if name in said[run]}
        for run, (_, data) in runs.items()
    }
    names = shared_images(truth)
    first = next(iter(truth.values()))
    classes = sorted({label for name in names for label, _, _ in first[name]})
    wanted = [_boxes([(*one, 0.0) for one in first[name]], classes) for name in names]
    matches = {}
    for run, found in said.items():
        guesses = [[(box["label"], box["box_xyxy"], False, box["score"]) for box in found[name]] for name in names]
        matches[run] = match_all([_boxes(one, classes) for one in guesses], wanted, len(classes))
    score, drawn = resampled(matches, len(names))
    pairs = [
        (one, other, gain(drawn[one], drawn[other], score[other] - score[one]))
        for one, other in itertools.combinations(runs, 2)
    ]
    return Scored(len(names), score, pairs)


def resampled(
    matches: Mapping[str, Sequence[Matches]], images: int, draws: int = DRAWS, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """mAP of each run on all images, and (draws,) on as many images drawn with replacement, the same for all runs."""
    chance = np.random.default_rng(seed)
    whole = np.ones((1, images), np.int64)
    score = {run: float(mean_average_precision(each, whole)[0]) for run, each in matches.items()}
    drawn: dict[str, list[np.ndarray]] = {run: [] for run in matches}
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        counts = chance.multinomial(images, np.full(images, 1 / images), size=size)
        for run, each in matches.items():
            drawn[run].append(mean_average_precision(each, counts))
    return score, {run: np.concatenate(each) for run, each in drawn.items()}


def difference_section(found: Scored) -> Section:
    """A row for every pair: difference, interval, and what to make of it."""
    heads = [Column("run", "text"), Column("against", "text phrase"), Column("mAP"), Column("mAP of the other")]
    heads += [Column("points"), Column("95% interval"), Column("so", "text phrase")]
    rows = []
    for one, other, each in found.pairs:
        interval = f"{points(each.low)} to {points(each.high)}"
        scores = [percent(found.score[other]), percent(found.score[one])]
        rows.append([other, one, *scores, points(each.difference), interval, verdict(each)])
    text = (
        f"On the same {found.images:,} images. The interval is a paired bootstrap over images: they are drawn anew "
        f"with replacement, {DRAWS:,} times, the same for all runs, and COCO's mAP of each draw is computed in full. "
        "It tells of the luck in which images were tested; what another training seed would give it does not know."
    )
    text += several_pairs(len(rows))
    return Section("differences", "Differences", render("tables.html", tables=[Table("", heads, rows)], text=text))


def _truth(data: LabelledData, split: str) -> dict[str, list[tuple[str, tuple[float, ...], bool]]]:
    """Label, box and crowd of all true boxes of each image."""
    return {
        record.name: [
            (data.classes[label], tuple(box), crowd)
            for label, box, crowd in zip(record.labels, record.boxes, record.crowds, strict=True)
        ]
        for record in data.split(split)
        if isinstance(record, BoxRecord)
    }


def _boxes(rows: Sequence[tuple[str, Sequence[float], bool, float]], classes: Sequence[str]) -> Boxes:
    """Boxes as the metric of a run sees them: corner, width and height in single precision. Classes that no image has
    count nowhere and get the label -1."""
    place = {name: number for number, name in enumerate(classes)}
    boxes = np.array([box for _, box, _, _ in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    corners = boxes.astype(np.float64)
    corners[:, 2:] += corners[:, :2]
    return Boxes(
        np.array([place.get(name, -1) for name, _, _, _ in rows], np.int64),
        corners,
        np.array([score for _, _, _, score in rows]),
        np.array([crowd for _, _, crowd, _ in rows], bool),
    )
