"""Metrics of scores against scikit-learn and a slow bootstrap."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from vpt.metrics.classification import calibration_error, classification_metrics
from vpt.metrics.score_metrics import intervals, positive_of, score_metrics, weighted_metrics
from vpt.utils.errors import UserError


def example(classes: int, images: int = 60, seed: int = 0, several: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and labels that they tell something about."""
    chance = np.random.default_rng(seed)
    if several:
        labels = (chance.random((images, classes)) < 0.4).astype(np.float64)
        scores = np.round(np.clip(0.5 * labels + chance.random((images, classes)) * 0.6, 0.01, 0.99), 2)
        return np.where(scores == 0.5, 0.51, scores), labels
    labels = chance.integers(0, classes, images)
    raw = np.round(np.eye(classes)[labels] + chance.random((images, classes)) * 2, 1)
    return raw / raw.sum(1, keepdims=True), labels


def by_sklearn(chance: np.ndarray, labels: np.ndarray, at: float) -> dict[str, float]:
    """Binary metrics, by scikit-learn alone."""
    scores = chance[:, 1]
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    said = (scores > 0.5).astype(int)
    return {
        "auroc": sk.roc_auc_score(labels, scores),
        "average_precision": sk.average_precision_score(labels, scores),
        "brier": sk.brier_score_loss(labels, scores),
        "sensitivity": sk.recall_score(labels, said),
        "specificity": sk.recall_score(labels, said, pos_label=0),
        "sensitivity_at_specificity": max(t for f, t in zip(fpr, tpr) if 1 - f >= at - 1e-9),
        "specificity_at_sensitivity": max(1 - f for f, t in zip(fpr, tpr) if t >= at - 1e-9),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at", [0.8, 0.95])
def test_two_classes(seed: int, at: float):
    chance, labels = example(2, seed=seed)
    wanted = by_sklearn(chance, labels, at)
    assert score_metrics(chance, labels, at) == pytest.approx(wanted)
    swapped = score_metrics(chance, labels, at, positive=0)
    assert swapped == pytest.approx(by_sklearn(chance[:, ::-1], 1 - labels, at))


def test_more_classes_and_several_labels():
    chance, labels = example(4)
    found = score_metrics(chance, labels)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, chance, multi_class="ovr"))
    truth = np.eye(4)[labels]
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, chance))
    assert found["brier"] == pytest.approx(((chance - truth) ** 2).sum(1).mean())
    chance, truth = example(3, several=True)
    found = score_metrics(chance, truth)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, chance, average="macro"))
    each = [sk.balanced_accuracy_score(truth[:, k], chance[:, k] > 0.5) for k in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each))
    assert found["brier"] == pytest.approx(((chance - truth) ** 2).mean())


def test_what_is_undefined_is_left_out():
    chance, _ = example(2)
    assert set(score_metrics(chance, np.zeros(60, int))) == {"brier"}
    chance, labels = example(3)
    labels[labels == 2] = 1
    chances = [sk.roc_auc_score(labels == k, chance[:, k]) for k in (0, 1)]
    assert score_metrics(chance, labels)["auroc"] == pytest.approx(np.mean(chances))
    assert intervals(chance[:1], labels[:1]) == {}
    assert intervals(chance, labels, ["same"] * 60) == {}


@pytest.mark.parametrize(("classes", "several"), [(2, False), (4, False), (3, True)])
def test_weights_are_repetitions(classes: int, several: bool):
    """Every resample equals the metrics of the repeated images."""
    chance, labels = example(classes, several=several)
    counts = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=8)
    found = weighted_metrics(chance, labels, counts.astype(float))
    names = [str(k) for k in range(classes)]
    for draw, count in enumerate(counts):
        again = np.repeat(np.arange(60), count)
        wanted: dict[str, Any] = dict(score_metrics(chance[again], labels[again]))
        logits = np.log(chance[again] / (1 - chance[again] if several else 1) + 1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes without images
            wanted = {**classification_metrics(logits, labels[again], classes=names, multilabel=several), **wanted}
        if not several:  # a bin of the rounded probabilities might differ
            right = chance[again].argmax(1) == labels[again]
            wanted["calibration_error"] = calibration_error(chance[again].max(1), right)
        for name, values in found.items():
            assert values[draw] == pytest.approx(wanted[name]), name


def slow_interval(chance: np.ndarray, labels: np.ndarray, groups: list[str], draws: int) -> tuple[float, float]:
    """AUROC of resampled groups, one after the other; the same draws."""
    names = sorted(set(groups))
    generator = np.random.default_rng(0)
    found = []
    for count in generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws):
        taken = [
            at for name, times in zip(names, count) for at in np.flatnonzero(np.array(groups) == name).repeat(times)
        ]
        if len(set(labels[taken])) == 2:
            found.append(sk.roc_auc_score(labels[taken], chance[taken, 1]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_intervals_by_group_equal_a_slow_bootstrap():
    chance, labels = example(2, images=40)
    groups = [f"p{at // 4}" for at in range(40)]
    found = intervals(chance, labels, groups, draws=60)
    assert found["auroc"] == pytest.approx(slow_interval(chance, labels, groups, 60))
    assert found == intervals(chance, labels, groups, draws=60)
    for name, value in score_metrics(chance, labels).items():
        assert found[name][0] <= value <= found[name][1], name
    copies = np.repeat(np.arange(40), 5)
    one, other = (
        intervals(chance[copies], labels[copies], by, draws=400)["auroc"] for by in ([f"{at}" for at in copies], ())
    )
    assert one[1] - one[0] > 1.5 * (other[1] - other[0])  # five copies of an image are no new information


def test_the_positive_class_and_calibration():
    assert positive_of(("a", "b"), "a") == 0
    with pytest.raises(UserError, match=r"data\.positive=maligant is not a class; did you mean 'malignant'"):
        positive_of(("benign", "malignant"), "maligant")
    chance, labels = example(3)
    whole = weighted_metrics(chance, labels, np.ones((1, 60)))
    assert whole["calibration_error"][0] == pytest.approx(calibration_error(chance.max(1), chance.argmax(1) == labels))
