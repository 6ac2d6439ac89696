"""COCO's matching of predicted boxes with true ones, done once, so that mAP of any choice of images is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
NOTHING = np.zeros((len(OVERLAPS), 0), bool)
MOST = 100  # predicted boxes of a class that count in one image, the surest


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: predicted with scores, or true with whether they stand for a crowd.

    Args:
        labels: (n,) classes.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        scores: (n,), or (n,) zeros of true boxes.
        crowds: (n,) bool; all False of predicted boxes.
    """

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Predicted boxes of one class in all images, the surest first, down to the last that found a true box.

    Args:
        images: (n,) the image of each.
        hits: (overlaps, n) whether it found a true box.
        ignored: (overlaps, n) whether it lies in a crowd and so is neither right nor wrong.
        wanted: (images,) true boxes of each image, crowds left out.
    """

    images: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def overlaps(some: np.ndarray, others: np.ndarray, crowds: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), x1, y1, x2, y2.

    Of others that are crowds (m,), it is the share of the first box that lies inside, as COCO has it.

    >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    mine, theirs = (np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (some, others))
    whole = mine[:, None] + theirs[None] - inside
    if crowds is not None:
        whole = np.where(crowds[None], mine[:, None], whole)
    return inside / np.maximum(whole, 1e-12)


def match(table: np.ndarray, crowds: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match boxes of one class in one image: by falling score, each predicted box takes the true one that it overlaps
    most among those still free. A crowd takes any number of boxes that found nothing else.

    Args:
        table: (n, m) overlaps of predicted boxes, the surest first, with true ones.
        crowds: (m,) bool.
        least: (t,) overlaps that are enough.

    Returns:
        Hits (t, n), ignored (t, n), and which true boxes were found (t, m).

    >>> hits, _, found = match(np.array([[0.8], [0.9]]), np.array([False]), np.array([0.5]))
    >>> hits.tolist(), found.tolist()
    ([[True, False]], [[True]])
    """
    hits = np.zeros((len(least), len(table)), bool)
    ignored, found = np.zeros_like(hits), np.zeros((len(least), len(crowds)), bool)
    if not table.size or table.max() < least.min():
        return hits, ignored, found
    rows = np.arange(len(least))
    for at in np.flatnonzero(table.max(1) >= least.min()):
        enough = table[at] >= least[:, None]
        free = np.where(enough & ~found & ~crowds, table[at], -1.0)
        best = len(crowds) - 1 - free[:, ::-1].argmax(1)  # of equal ones COCO takes the last
        hits[:, at] = free[rows, best] >= 0
        found[rows[hits[:, at]], best[hits[:, at]]] = True
        ignored[:, at] = ~hits[:, at] & (enough & crowds).any(1)
    return hits, ignored, found


def match_all(predicted: Sequence[Boxes], wanted: Sequence[Boxes], classes: int) -> list[Matches]:
    """Match all images, class by class, at COCO's ten overlaps.

    Args:
        predicted: of each image.
        wanted: of the same images.
        classes: how many.

    >>> none, flat = np.zeros(1), np.zeros(1, bool)
    >>> box = Boxes(np.array([0]), np.array([[0, 0, 2, 2]]), none, flat)
    >>> match_all([box], [box], 1)[0].hits.all()
    np.True_
    """
    return [_match_class(predicted, wanted, label) for label in range(classes)]


def _match_class(predicted: Sequence[Boxes], wanted: Sequence[Boxes], label: int) -> Matches:
    there = [int(((true.labels == label) & ~true.crowds).sum()) for true in wanted]
    scores, images, hits, ignored = [np.zeros(0)], [np.zeros(0, np.int64)], [NOTHING], [NOTHING]
    for number, (said, true) in enumerate(zip(predicted, wanted, strict=True)):
        mine = np.flatnonzero(said.labels == label)
        if not len(mine):  # of many classes few are in one image
            continue
        mine = mine[np.argsort(-said.scores[mine], kind="stable")][:MOST]
        theirs = true.labels == label
        crowds = true.crowds[theirs]
        hit, ignore, _ = match(overlaps(said.boxes[mine], true.boxes[theirs], crowds), crowds, OVERLAPS)
        scores.append(said.scores[mine])
        images.append(np.full(len(mine), number))
        hits.append(hit)
        ignored.append(ignore)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    whole = np.concatenate(hits, axis=1)[:, order]
    useful = np.flatnonzero(whole.any(0)).max(initial=-1) + 1  # what is less sure than the last hit changes no score
    order = order[:useful]
    return Matches(
        np.concatenate(images)[order], whole[:, :useful], np.concatenate(ignored, axis=1)[:, order], np.array(there)
    )


def mean_average_precision(matches: Sequence[Matches], counts: np.ndarray) -> np.ndarray:
    """COCO's mAP of resampled images: all areas, 100 boxes, the mean over the classes that have a true box.

    Args:
        matches: of each class.
        counts: (draws, images) how often each image is there; a row of ones is the set as it is.

    Returns:
        (draws,), zero where there is no true box.

    >>> none, flat = np.zeros(1), np.zeros(1, bool)
    >>> box = Boxes(np.array([0]), np.array([[0, 0, 2, 2]]), none, flat)
    >>> mean_average_precision(match_all([box], [box], 1), np.array([[1], [3], [0]])).tolist()
    [1.0, 1.0, 0.0]
    """
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for each in matches:
        there = counts @ each.wanted
        total += np.where(there > 0, _average_precision(each, counts, np.maximum(there, 1)), 0)
        classes += there > 0
    return total / np.maximum(classes, 1)


def _average_precision(matches: Matches, counts: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean of precision at 101 recalls and ten overlaps, (draws,). Precision and recall change for the better at hits
    only, so it is enough to look there. An image that was drawn twice brings each of its boxes twice, side by side."""
    drawn = counts[:, matches.images]
    said = np.cumsum(drawn, axis=1)
    total = np.zeros(len(counts))
    for hits, ignored in zip(matches.hits, matches.ignored, strict=True):
        at = np.flatnonzero(hits)
        if not len(at):
            continue
        right = np.cumsum(drawn[:, at], axis=1)
        judged = said[:, at] - (np.cumsum(drawn * ignored, axis=1)[:, at] if ignored.any() else 0)
        precision = right / np.maximum(judged, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
        # How many of the 101 recalls are reached by each hit, and not by the one before.
        reached = np.searchsorted(RECALLS, right / there[:, None], side="right")
        total += (best * np.diff(reached, axis=1, prepend=0)).sum(1)
    return total / (len(OVERLAPS) * len(RECALLS))
