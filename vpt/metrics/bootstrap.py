"""Bootstrap over images of COCO's mAP: images are resampled with replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpt.data.dataset import LabelledData
from vpt.data.detection.dataset import BoxRecord
from vpt.metrics.coco_map import Boxes, Matches, match_all, mean_average_precision
from vpt.metrics.significance import shared_images

DRAWS = 1000
BLOCK = 50  # resamples computed at once; more would only need more memory

Rows = Sequence[Mapping[str, Any]]  # content of predictions-test.json


def matched(runs: Mapping[str, tuple[Rows, LabelledData]], split: str) -> tuple[dict[str, list[Matches]], int]:
    """Match the boxes of runs on the images they have in common; also returns the number of these images.

    Args:
        runs: name -> predictions, and the data the run was evaluated on.
        split: test or val.

    Raises:
        UserError: no image in common, or different labels for the same image.
    """
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
    return matches, len(names)


def interval(rows: Rows, data: LabelledData, split: str) -> tuple[float, float]:
    """95% confidence interval of a run's mAP, by the bootstrap over images.

    Raises:
        UserError: the run has predictions for none of the images.
    """
    matches, images = matched({"": (rows, data)}, split)
    low, high = np.quantile(resampled(matches, images)[1][""], [0.025, 0.975])
    return float(low), float(high)


def resampled(
    matches: Mapping[str, Sequence[Matches]], images: int, draws: int = DRAWS, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """mAP of each run on all images, and (draws,) on resampled images; the resamples are the same for all runs."""
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


def _truth(data: LabelledData, split: str) -> dict[str, list[tuple[str, tuple[float, ...], bool]]]:
    """Label, box and crowd flag of all true boxes of each image."""
    return {
        record.name: [
            (data.classes[label], tuple(box), crowd)
            for label, box, crowd in zip(record.labels, record.boxes, record.crowds, strict=True)
        ]
        for record in data.split(split)
        if isinstance(record, BoxRecord)
    }


def _boxes(rows: Sequence[tuple[str, Sequence[float], bool, float]], classes: Sequence[str]) -> Boxes:
    """Boxes as the metric of a run sees them: corner, width and height in single precision. Classes without images get
    the label -1 and do not count."""
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
