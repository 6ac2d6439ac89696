"""Metrics against counting by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpt.inference.classification import Classification
from vpt.metrics.classification import calibration_error, classification_metrics
from vpt.utils import plotting
from vpt.utils.errors import NotFinite

CLASSES = ("a", "b", "c", "never")


def test_single_label_by_hand():
    logits = np.log(np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]]))
    found = classification_metrics(logits, np.array([0, 1, 1, 2]), classes=CLASSES)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)  # the class nobody has does not count
    assert found["confusion"] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.5) + math.log(0.2) + math.log(0.7)) / 4)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert "top5" not in found


def test_top5_counts_ties_in_favour_of_nobody_else():
    logits = np.zeros((2, 10))
    logits[0, :5] = 1
    found = classification_metrics(logits, np.array([9, 0]), classes=[str(k) for k in range(10)])
    assert found["top5"] == 0.5


def test_several_labels_by_hand():
    logits = np.array([[2.0, -1, 3], [1, 2, -3], [-1, 1, 1]])
    truth = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=np.float32)
    found = classification_metrics(logits, truth, classes=CLASSES[:3], multilabel=True)
    assert found["map"] == pytest.approx(1.0)
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["micro_f1"] == pytest.approx(2 * 5 / (2 * 5 + 1))


def test_scores_that_are_not_finite_are_counted():
    with pytest.raises(NotFinite, match="1 of 2 images"):
        classification_metrics(np.array([[1.0, np.nan], [1.0, 0.0]]), np.array([0, 1]), classes="ab")


def test_calibration_error_is_the_gap():
    confidence = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 5 + [False] * 5 + [True] * 5 + [False] * 5)
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)


@pytest.mark.parametrize(
    "scores", [(0.4, 0.5), (float("nan"), 0.1), (1.2, 0.1), (0.5,)], ids=["rising", "nan", "above one", "too few"]
)
def test_results_that_cannot_be_are_refused(scores: tuple[float, ...]):
    with pytest.raises(ValueError, match=r"a\.jpg"):
        Classification("a.jpg", ("cat", "dog"), scores)


def test_labels_that_hold():
    assert Classification("a", ("cat", "dog"), (0.4, 0.3)).holding == ("cat",)
    assert Classification("a", ("cat", "dog", "fox"), (0.9, 0.6, 0.1), multilabel=True).holding == ("cat", "dog")
    assert Classification("a", ("cat", "dog"), (0.4, 0.3), multilabel=True).holding == ()


@pytest.mark.parametrize("size", [2, 10, 60])
def test_pictures_are_drawn(drawn_plots: None, tmp_path: Path, size: int):
    history = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 0.5, "val_loss": 1.1 / e} for e in range(1, 4)]
    history[1]["val_accuracy"] = 0.4
    plotting.curves_png(history, tmp_path / "curves.png", "accuracy")
    plotting.confusion_png(np.eye(size, dtype=int).tolist(), [f"class {k}" for k in range(size)], tmp_path / "c.png")
    for name in ("curves.png", "c.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 300
            assert len(np.unique(np.asarray(picture))) > 20
