"""COCO's matching of predicted and true boxes, done once, so that mAP of any selection of images is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
NOTHING = np.zeros((len(OVERLAPS), 0), bool)
MOST = 100  # most predicted boxes of a class that count in one image, the most confident


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: predicted ones with scores, or true ones with crowd flags.

    Args:
        labels: (n,) classes.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        scores: (n,), zeros for true boxes.
        crowds: (n,) bool; all False for predicted boxes.
    """

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Predicted boxes of one class in all images, most confident first, up to the last one that matches a true box.

    Args:
        images: (n,) the image of each box.
        hits: (overlaps, n) whether it matches a true box.
        ignored: (overlaps, n) whether it lies in a crowd and so counts neither as correct nor as wrong.
        wanted: (images,) number of true boxes of each image, without crowds.
    """

    images: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def overlaps(some: np.ndarray, others: np.ndarray, crowds: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), x1, y1, x2, y2.

    For crowds (m,) among the second boxes, it is the fraction of the first box that lies inside, as in COCO.

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
    """Match boxes of one class in one image: in order of decreasing score, each predicted box takes the true box with
    the largest overlap among the unmatched ones. A crowd takes any number of boxes that match nothing else.

    Args:
        table: (n, m) overlaps of predicted boxes, most confident first, with true ones.
        crowds: (m,) bool.
        least: (t,) minimum overlaps of a match.

    Returns:
        Hits (t, n), ignored (t, n), and which true boxes were matched (t, m).

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
        best = len(crowds) - 1 - free[:, ::-1].argmax(1)  # of equal overlaps COCO takes the last
        hits[:, at] = free[rows, best] >= 0
        found[rows[hits[:, at]], best[hits[:, at]]] = True
        ignored[:, at] = ~hits[:, at] & (enough & crowds).any(1)
    return hits, ignored, found


def match_all(predicted: Sequence[Boxes], wanted: Sequence[Boxes], classes: int) -> list[Matches]:
    """Match all images, class by class, at COCO's ten overlaps.

    Args:
        predicted: boxes of each image.
        wanted: true boxes of the same images.
        classes: number of classes.

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
        if not len(mine):  # most classes are absent from an image
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
    useful = np.flatnonzero(whole.any(0)).max(initial=-1) + 1  # boxes after the last hit do not change the score
    order = order[:useful]
    return Matches(
        np.concatenate(images)[order], whole[:, :useful], np.concatenate(ignored, axis=1)[:, order], np.array(there)
    )


def mean_average_precision(matches: Sequence[Matches], counts: np.ndarray) -> np.ndarray:
    """COCO's mAP of resampled images: all areas, 100 boxes, the mean over the classes that have true boxes.

    Args:
        matches: of each class.
        counts: (draws, images) how often each image occurs; a row of ones is the original set.

    Returns:
        (draws,), zero if there is no true box.

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
    """Mean precision over 101 recalls and ten overlaps, (draws,). Precision and recall increase at hits only, so only
    hits are evaluated. An image that was drawn twice contributes each of its boxes twice, next to each other."""
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
        # How many of the 101 recalls are first reached by each hit.
        reached = np.searchsorted(RECALLS, right / there[:, None], side="right")
        total += (best * np.diff(reached, axis=1, prepend=0)).sum(1)
    return total / (len(OVERLAPS) * len(RECALLS))
