"""The score at which to show boxes: that of the best F1 on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpt.metrics.coco_map import match, overlaps

DEFAULT = 0.3  # without a validation split, and of artifacts of earlier versions
OVERLAP = np.array([0.5])


def best_f1(predicted: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The best F1 of boxes at an overlap of 0.5, over all classes, and the smallest score that gives it.

    Args:
        predicted: for each image boxes (n, 4), scores (n,) and labels (n,), as tensors.
        wanted: for each image boxes, labels and iscrowd.

    Returns:
        F1 and score; zero and `DEFAULT` if no box is right.

    >>> import torch
    >>> box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    >>> found = {"boxes": torch.cat([box, box + 20]), "scores": torch.tensor([0.9, 0.2]), "labels": torch.zeros(2)}
    >>> best_f1([found], [{"boxes": box, "labels": torch.tensor([0]), "iscrowd": torch.tensor([0])}])
    (1.0, 0.899)
    """
    scores, hits, objects = [np.zeros(0)], [np.zeros(0, bool)], 0
    for said, true in zip(predicted, wanted, strict=True):
        mine = {key: np.asarray(said[key]) for key in ("boxes", "scores", "labels")}
        theirs = {key: np.asarray(true[key]) for key in ("boxes", "labels", "iscrowd")}
        objects += int((theirs["iscrowd"] == 0).sum())
        for label in np.unique(mine["labels"]):
            order = np.flatnonzero(mine["labels"] == label)
            order = order[np.argsort(-mine["scores"][order], kind="stable")]
            same = theirs["labels"] == label
            crowds = theirs["iscrowd"][same].astype(bool)
            table = overlaps(mine["boxes"][order], theirs["boxes"][same], crowds)
            hit, ignored, _ = match(table, crowds, OVERLAP)
            judged = ~ignored[0]
            scores.append(mine["scores"][order][judged])
            hits.append(hit[0][judged])
    score, hit = np.concatenate(scores).astype(np.float64), np.concatenate(hits)
    if not hit.any():
        return 0.0, DEFAULT
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(hit[order])
    f1 = 2 * right / (np.arange(1, len(right) + 1) + objects)
    last = np.append(score[order][1:] < score[order][:-1], True)  # boxes of equal score are shown together
    at = int(np.where(last, f1, -1).argmax())
    return float(f1[at]), float(np.floor(score[order][at] * 1000) / 1000)


def shown_score(metrics: Mapping[str, Any]) -> float:
    """The score at which to show boxes, from the metrics of a run or of an artifact.

    >>> shown_score({"val": {"map": 0.4, "best_f1_score": 0.42}}), shown_score({"test": {"map": 0.4}})
    (0.42, 0.3)
    """
    found = (metrics.get("val") or {}).get("best_f1_score")
    return float(found) if isinstance(found, float) and 0 <= found < 1 else DEFAULT
