"""The bootstrap of the mean IoU is that of counting the pixels of every resample again."""

from __future__ import annotations

import numpy as np

from vpt.metrics.segmentation import SegmentationMeter
from vpt.metrics.segmentation_bootstrap import interval, mean_iou, resampled

CLASSES = ("a", "b", "c", "never")


def _images(seed: int, count: int = 9) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predicted and true masks; c occurs in one image alone."""
    chance = np.random.default_rng(seed)
    found = []
    for number in range(count):
        true = chance.integers(0, 3 if number == 4 else 2, (6, 7))
        predicted = np.where(chance.random((6, 7)) < 0.8, true, 0)
        true[0, :2] = 255
        found.append((predicted, true))
    return found


def _counts(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    rows = []
    for predicted, true in images:
        there = true != 255
        both = [((predicted == k) & (true == k), (predicted == k) & there, true == k) for k in range(4)]
        rows.append([[part.sum() for part in parts] for parts in both])
    return np.array(rows)


def test_equal_to_counting_again():
    images = _images(0)
    score, drawn = resampled({"one": _counts(images)}, draws=40, seed=3)
    times = np.random.default_rng(3).multinomial(9, np.full(9, 1 / 9), size=40)
    for row, found in zip([np.ones(9, int), *times], [score["one"], *drawn["one"]], strict=True):
        meter = SegmentationMeter(CLASSES, boundaries=False)
        for (predicted, true), count in zip(images, row, strict=True):
            for _ in range(count):
                meter.update(predicted, true)
        assert np.isclose(found, meter.result().miou)


def test_runs_are_compared_on_the_same_resamples():
    counts = _counts(_images(1))
    score, drawn = resampled({"one": counts, "same": counts.copy()})
    assert score["one"] == score["same"]
    assert (drawn["one"] == drawn["same"]).all()
    low, high = interval(counts)
    assert low < score["one"] < high
    assert mean_iou(np.zeros((2, 3))) == 0
