"""Scores from which the positive class, or a label, is predicted; chosen on validation and kept in the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpt.metrics.classification import Floats
from vpt.metrics.score_metrics import EDGE, one_versus_rest

Rule = Literal["youden", "sensitivity", "specificity"]
MOST = 400  # labels; the header of an artifact has room for so many


def choose_threshold(scores: Floats, truth: NDArray[np.bool_], rule: Rule = "youden", at: float = 0.95) -> float | None:
    """The score from which an image counts as positive; None if all or none of them are.

    Args:
        scores: (N,) from 0 to 1.
        truth: (N,) whether images are positive.
        rule: the largest sum of sensitivity and specificity; or the largest threshold with a sensitivity, or smallest
            with a specificity, of at least `at`.
        at: for the rule.

    >>> choose_threshold(np.array([0.1, 0.3, 0.8, 0.9]), np.array([False, False, True, True]))
    0.55
    """
    from sklearn.metrics import roc_curve

    if not 0 < truth.sum() < len(truth):
        return None
    fpr, tpr, cuts = roc_curve(truth, scores, drop_intermediate=False)
    if rule == "youden":
        place = int(np.argmax(tpr - fpr))
    elif rule == "sensitivity":
        allowed = fpr[tpr >= at - EDGE][0]
        place = int(np.flatnonzero(fpr == allowed)[-1])  # a higher sensitivity at the same specificity
    else:
        reached = tpr[fpr <= 1 - at + EDGE][-1]
        place = int(np.flatnonzero(tpr == reached)[0])
    # In the middle between two scores, so that a slightly different one is judged alike.
    upper = min(1.0, float(cuts[place]))
    lower = float(cuts[place + 1]) if place + 1 < len(cuts) else 0.0
    return round((upper + lower) / 2, 6) if place else upper


def choose_thresholds(
    chance: Floats, labels: NDArray[Any], rule: Rule = "youden", at: float = 0.95, positive: int = 1
) -> dict[str, float]:
    """Thresholds as metrics of validation: `threshold` of two classes, or `threshold_0` and so on of labels.

    Args:
        chance, labels, positive: as in `score_metrics`.
        rule, at: as in `choose_threshold`.

    >>> choose_thresholds(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 1]))
    {'threshold': 0.4}
    """
    several = labels.ndim == 2
    if chance.shape[1] > (MOST if several else 2):
        return {}
    scores, truth = one_versus_rest(chance, labels, positive)
    found = [choose_threshold(scores[:, k], truth[:, k], rule, at) for k in range(scores.shape[1])]
    names = [f"threshold_{k}" for k in range(len(found))] if several else ["threshold"]
    return {name: value for name, value in zip(names, found, strict=True) if value is not None}


@dataclass(frozen=True)
class Decision:
    """How scores become an answer.

    Args:
        thresholds: one for each label, or that of the positive class of two.
        positive: index of the positive class; None if images have several labels.
        unsure: scores that differ by less from a threshold are unsure.
    """

    thresholds: tuple[float, ...]
    positive: int | None
    unsure: float = 0.0

    def decide(self, scores: Floats) -> tuple[list[int], list[int]]:
        """Indices of the predicted classes of an image, and of those that are unsure.

        >>> Decision((0.3,), positive=1).decide(np.array([0.6, 0.4]))
        ([1], [])
        >>> Decision((0.3,), positive=1, unsure=0.2).decide(np.array([0.6, 0.4]))
        ([], [1])
        """
        if self.positive is None:
            doubtful = np.abs(scores - self.thresholds) < self.unsure
            return np.flatnonzero((scores >= self.thresholds) & ~doubtful).tolist(), np.flatnonzero(doubtful).tolist()
        score, threshold = float(scores[self.positive]), self.thresholds[0]
        if abs(score - threshold) < self.unsure:
            return [], [self.positive]
        return [self.positive if score >= threshold else 1 - self.positive], []

    def decide_all(self, scores: Tensor) -> Tensor:
        """Decisions (N, K) int8 on scores (N, K): 1 for predicted classes, -1 for those that are unsure, else 0.

        >>> Decision((0.3,), positive=1, unsure=0.2).decide_all(torch.tensor([[0.6, 0.4], [0.1, 0.9]])).tolist()
        [[0, -1], [0, 1]]
        """
        own = scores if self.positive is None else scores[:, self.positive : self.positive + 1]
        apart = own - torch.tensor(self.thresholds)
        unsure = apart.abs() < self.unsure
        decided = torch.where(unsure, -1, (apart >= 0).to(torch.int8)).to(torch.int8)
        if self.positive is None:
            return decided
        other = ((decided == 0) & ~unsure).to(torch.int8)
        return torch.cat([other, decided] if self.positive else [decided, other], 1)


def stored_thresholds(metrics: Mapping[str, Any], classes: int, multilabel: bool) -> tuple[float, ...] | None:
    """Thresholds in the metrics of an artifact, 0.5 for labels without; None if there are none.

    >>> stored_thresholds({"val": {"threshold": 0.3}}, 2, False), stored_thresholds({}, 2, False)
    ((0.3,), None)
    """
    val = metrics.get("val") or {}
    names = [f"threshold_{k}" for k in range(classes)] if multilabel else ["threshold"] if classes == 2 else []
    found: list[Any] = [val.get(name) for name in names]
    sound = [isinstance(value, float) and 0 <= value <= 1 for value in found]
    return tuple(value if good else 0.5 for value, good in zip(found, sound, strict=True)) if any(sound) else None
