"""Metrics of classification, computed with scikit-learn from logits and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, final

import numpy as np
from numpy.typing import NDArray

from vpt.utils.errors import NotFinite

BINS = 15  # confidence bins

Floats = NDArray[np.floating[Any]]

ClassMetrics = TypedDict(  # "class" is a keyword
    "ClassMetrics",
    {
        "class": str,
        "precision": float,
        "recall": float,
        "f1": float,
        "support": int,
        "average_precision": NotRequired[float | None],
    },
)


class _Common(TypedDict):
    loss: float
    macro_f1: float
    images: int
    per_class: list[ClassMetrics]
    # See score_metrics.py; thresholds only on validation.
    auroc: NotRequired[float]
    average_precision: NotRequired[float]
    brier: NotRequired[float]
    sensitivity: NotRequired[float]
    specificity: NotRequired[float]
    sensitivity_at_specificity: NotRequired[float]
    specificity_at_sensitivity: NotRequired[float]
    unknown_rate: NotRequired[float]  # fraction of images that are judged unknown
    intervals: NotRequired[dict[str, list[float]]]


@final
class SingleLabelMetrics(_Common):
    """Metrics of images with one label; the confusion matrix has true classes in rows."""

    accuracy: float
    balanced_accuracy: float
    calibration_error: float
    top5: NotRequired[float]
    confusion: list[list[int]]


@final
class MultiLabelMetrics(_Common):
    """Metrics of images with several labels."""

    map: float
    micro_f1: float
    exact_match: float
    balanced_accuracy: NotRequired[float]
    calibration_error: NotRequired[float]


ClassificationMetrics = SingleLabelMetrics | MultiLabelMetrics


def main_metric(multilabel: bool) -> str:
    """The metric by which epochs are ranked; larger is better.

    >>> main_metric(False)
    'accuracy'
    """
    return "map" if multilabel else "accuracy"


def score_of(measured: ClassificationMetrics) -> float:
    """The value of the main metric."""
    return measured["accuracy"] if "accuracy" in measured else measured["map"]


def classification_metrics(
    logits: Floats, labels: NDArray[Any], *, classes: Sequence[str], multilabel: bool = False
) -> ClassificationMetrics:
    """Compute all metrics of one split.

    Args:
        logits: (N, K).
        labels: (N,) class indices, or (N, K) zeros and ones if images have several labels.
        classes: K names.

    Raises:
        NotFinite: logits that are not finite.

    >>> classification_metrics(np.eye(3) * 9, np.arange(3), classes="abc")["accuracy"]
    1.0
    """
    bad = int((~np.isfinite(logits)).any(1).sum())
    if bad:
        raise NotFinite(f"{bad} of {len(logits)} images have scores that are not finite")
    logits = logits.astype(np.float64)
    return _several(logits, labels, classes) if multilabel else _single(logits, labels, classes)


def _single(logits: Floats, labels: NDArray[Any], classes: Sequence[str]) -> SingleLabelMetrics:
    from scipy.special import log_softmax
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    index = np.arange(len(classes))
    logs = log_softmax(logits, axis=1)
    guessed = logits.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(labels, guessed, labels=index, zero_division=0.0)
    present = support > 0
    top5: dict[str, float] = {}
    if len(classes) > 5:
        better = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
        top5 = {"top5": float((better < 5).mean())}
    return {
        "loss": float(-logs[np.arange(len(labels)), labels].mean()),
        "accuracy": float((guessed == labels).mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "calibration_error": calibration_error(np.exp(logs).max(1), guessed == labels),
        **top5,  # type: ignore[typeddict-item]
        "images": len(labels),
        "per_class": _per_class(classes, precision, recall, f1, support),
        "confusion": confusion_matrix(labels, guessed, labels=index).tolist(),
    }


def _several(logits: Floats, labels: NDArray[Any], classes: Sequence[str]) -> MultiLabelMetrics:
    from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

    truth = labels > 0.5
    guessed = logits > 0
    present = np.flatnonzero(truth.any(0))
    average = {int(k): float(average_precision_score(truth[:, k], logits[:, k])) for k in present}
    precision, recall, f1, support = precision_recall_fscore_support(truth, guessed, zero_division=0.0)
    softplus = np.logaddexp(0.0, logits)
    return {
        "loss": float((softplus - logits * truth).mean()),
        "map": float(np.mean(list(average.values()))) if average else 0.0,
        "micro_f1": float(f1_score(truth, guessed, average="micro", zero_division=0.0)),
        "macro_f1": float(f1[present].mean()) if len(present) else 0.0,
        "exact_match": float((truth == guessed).all(1).mean()),
        "images": len(labels),
        "per_class": [
            {**row, "average_precision": average.get(k)}
            for k, row in enumerate(_per_class(classes, precision, recall, f1, support))
        ],
    }


def _per_class(classes: Sequence[str], *columns: Any) -> list[ClassMetrics]:
    return [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(classes, *columns, strict=True)
    ]


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence from `low` to `high`."""

    low: float
    high: float
    count: int
    confidence: float  # mean of the confidence
    right: float  # fraction that is correct


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Group answers by confidence into bins of equal width; empty bins are left out.

    Args:
        confidence: (N,) from 0 to 1.
        right: (N,) whether the answer is correct.

    >>> [bin.count for bin in reliability(np.array([0.1, 0.95, 1.0]), np.array([False, True, True]), bins=10)]
    [1, 2]
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(
            each / bins,
            (each + 1) / bins,
            int((place == each).sum()),
            float(confidence[place == each].mean()),
            float(right[place == each].mean()),
        )
        for each in np.unique(place)
    ]


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, section 2): mean gap between confidence and accuracy over bins.

    >>> calibration_error(np.array([0.75] * 4), np.array([True, True, True, False]))
    0.0
    """
    gaps = [abs(bin.confidence - bin.right) * bin.count for bin in reliability(confidence, right, bins)]
    return sum(gaps) / max(1, len(right))
