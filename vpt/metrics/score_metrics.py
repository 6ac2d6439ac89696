"""Metrics of scores rather than of answers: AUROC, average precision, sensitivity and specificity, Brier score.

Two classes are judged by the scores of the positive one, more classes and several labels one versus the rest, averaged
over those that have positive and negative images. `intervals` resamples images, or groups of them such as patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.metrics.classification import BINS, Floats, calibration_error
from vpt.metrics.group_bootstrap import DRAWS, group_intervals
from vpt.utils.errors import UserError, nearest

MOST = 100_000  # scores of a split of which intervals are computed
EDGE = 1e-9  # a rate may differ from the required one by rounding


def positive_of(classes: Sequence[str], name: str | None) -> int:
    """Index of the positive class: the named one, or the second.

    Raises:
        UserError: there is no such class.

    >>> positive_of(["benign", "malignant"], None), positive_of(["malignant", "normal"], "malignant")
    (1, 0)
    """
    if name is None:
        return min(1, len(classes) - 1)
    if name not in classes:
        raise UserError(
            f"data.positive={name} is not a class{nearest(name, classes)}; there are {', '.join(classes)[:300]}"
        )
    return list(classes).index(name)


def one_versus_rest(chance: Floats, labels: NDArray[Any], positive: int = 1) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores and truth (N, C): a column for every class or label, or only that of the positive one of two classes."""
    if labels.ndim == 2:
        return chance, labels > 0.5
    truth = np.eye(chance.shape[1], dtype=bool)[labels]
    return (chance[:, [positive]], truth[:, [positive]]) if chance.shape[1] == 2 else (chance, truth)


def score_metrics(chance: Floats, labels: NDArray[Any], at: float = 0.95, positive: int = 1) -> dict[str, float]:
    """Metrics of probabilities; those that are undefined, as AUROC without positive images, are left out.

    Args:
        chance: (N, K) probabilities.
        labels: (N,) classes, or (N, K) zeros and ones.
        at: the specificity that a sensitivity is given at, and the reverse.
        positive: index of the positive class of two.

    >>> score_metrics(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([0, 0, 1]))["auroc"]
    1.0
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    scores, truth = one_versus_rest(chance, labels, positive)
    both = [k for k in range(truth.shape[1]) if 0 < truth[:, k].sum() < len(truth)]
    found: dict[str, float] = {"brier": float(squared_distance(chance, labels).mean())}
    if not both:
        return found
    found["auroc"] = _mean(roc_auc_score(truth[:, k], scores[:, k]) for k in both)
    if labels.ndim == 1:
        found["average_precision"] = _mean(average_precision_score(truth[:, k], scores[:, k]) for k in both)
        if chance.shape[1] > 2:
            return found
    else:
        found["calibration_error"] = calibration_error(*_certain(chance, truth))
    said = scores > 0.5
    found["sensitivity"] = _mean(said[truth[:, k], k].mean() for k in both)
    found["specificity"] = _mean(1 - said[~truth[:, k], k].mean() for k in both)
    if labels.ndim == 2:
        found["balanced_accuracy"] = (found["sensitivity"] + found["specificity"]) / 2
    curves = [roc_curve(truth[:, k], scores[:, k], drop_intermediate=False) for k in both]
    found["sensitivity_at_specificity"] = _mean(tpr[fpr <= 1 - at + EDGE].max() for fpr, tpr, _ in curves)
    found["specificity_at_sensitivity"] = _mean(1 - fpr[tpr >= at - EDGE].min() for fpr, tpr, _ in curves)
    return found


def intervals(
    chance: Floats,
    labels: NDArray[Any],
    groups: Sequence[str] = (),
    at: float = 0.95,
    positive: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% confidence intervals by the bootstrap over groups, or over images if they have none.

    Args:
        chance, labels, at, positive: as in `score_metrics`.
        groups: group of each image; empty or all "": every image is its own.
        draws: number of resamples.
        seed: of the resamples.

    >>> intervals(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([0, 0, 1]), draws=50)["accuracy"]
    (1.0, 1.0)
    """
    if chance.size > MOST or len(labels) < 2:
        return {}
    return group_intervals(
        lambda weights: weighted_metrics(chance, labels, weights, at, positive), len(labels), groups, draws, seed
    )


def weighted_metrics(
    chance: Floats, labels: NDArray[Any], weights: Floats, at: float = 0.95, positive: int = 1
) -> dict[str, Floats]:
    """Metrics (D,) for D weightings of the images, NaN where they are undefined.

    Args:
        chance, labels, at, positive: as in `score_metrics`.
        weights: (D, N), such as how often each image was drawn.
    """
    scores, truth = one_versus_rest(chance, labels, positive)
    total = weights.sum(1)
    several = labels.ndim == 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"brier": weights @ squared_distance(chance, labels) / total}
        if several:
            found["exact_match"] = weights @ ((chance > 0.5) == truth).all(1) / total
        else:
            right = chance.argmax(1) == labels
            member = np.eye(chance.shape[1])[labels]
            found["accuracy"] = weights @ right / total
            found["balanced_accuracy"] = _nanmean((weights @ (member * right[:, None])) / (weights @ member))
            found["calibration_error"] = _weighted_calibration(chance.max(1), right, weights)
        rates = several or chance.shape[1] == 2
        columns = [_column(scores[:, k], truth[:, k], weights, at, rates) for k in range(scores.shape[1])]
    for name in columns[0]:
        mean = _nanmean(np.stack([column[name] for column in columns], 1))
        found["map" if several and name == "average_precision" else name] = mean
    if several:
        found["balanced_accuracy"] = (found["sensitivity"] + found["specificity"]) / 2
    return found


def _column(scores: Floats, truth: NDArray[np.bool_], weights: Floats, at: float, rates: bool) -> dict[str, Floats]:
    """Weighted metrics of one column, all weightings at once; those of single points of the curve if `rates`."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are one step of the curve
    ordered = weights.T[order]  # (N, D)
    positive = ordered * truth[order][:, None]
    hits = np.cumsum(positive, axis=0)[last]
    false = np.cumsum(ordered - positive, axis=0)[last]
    tpr, fpr = hits / hits[-1], false / false[-1]
    gain = np.diff(tpr, axis=0, prepend=0)
    # Steps before the first drawn image have no precision, and no hits either.
    precision = hits / np.maximum(hits + false, EDGE)
    found = {
        "auroc": ((tpr - gain / 2) * np.diff(fpr, axis=0, prepend=0)).sum(0),
        "average_precision": (precision * gain).sum(0),
    }
    if rates:
        above = int((scores[order][last] > 0.5).sum())
        zero = np.zeros(len(weights))
        found["sensitivity"] = tpr[above - 1] if above else zero
        found["specificity"] = 1 - (fpr[above - 1] if above else zero)
        found["sensitivity_at_specificity"] = np.where(fpr <= 1 - at + EDGE, tpr, 0).max(0)
        found["specificity_at_sensitivity"] = np.where(tpr >= at - EDGE, 1 - fpr, 0).max(0)
    undefined = (hits[-1] == 0) | (false[-1] == 0)
    return {name: np.where(undefined, np.nan, values) for name, values in found.items()}


def squared_distance(chance: Floats, labels: NDArray[Any]) -> Floats:
    """Brier score of each image, as in scikit-learn: summed over classes, but from 0 to 1 for two classes or labels."""
    if labels.ndim == 2:
        return ((chance - labels) ** 2).mean(1)
    each = ((chance - np.eye(chance.shape[1])[labels]) ** 2).sum(1)
    return each / 2 if chance.shape[1] == 2 else each


def _certain(chance: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidence and correctness of every label of every image."""
    return np.maximum(chance, 1 - chance).ravel(), ((chance > 0.5) == truth).ravel()


def _weighted_calibration(confidence: Floats, right: NDArray[np.bool_], weights: Floats) -> Floats:
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = weights @ (np.eye(BINS)[place] * (confidence - right)[:, None])
    return np.abs(gaps).sum(1) / weights.sum(1)


def _nanmean(values: Floats) -> Floats:
    there = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(there, values, 0).sum(1) / there.sum(1)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
