"""Bootstrap over images of the mean IoU: images are resampled with replacement, and their pixels are counted again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vpt.metrics.bootstrap import DRAWS


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU of counts (..., K, 3) of pixels: predicted and true, predicted, true; over the classes that occur.

    >>> mean_iou(np.array([[1, 2, 1], [1, 1, 2], [0, 0, 0]])).round(3)
    np.float64(0.5)
    """
    both, predicted, true = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    union = predicted + true - both
    there = union > 0
    found = np.divide(both, union, out=np.zeros_like(both), where=there).sum(-1) / np.maximum(1, there.sum(-1))
    return np.asarray(found)[()]


def resampled(
    runs: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Mean IoU of each run on all images, and (draws,) on resampled images; the resamples are the same for all runs.

    Args:
        runs: name -> counts (images, K, 3) as of `mean_iou`, of the same images.
        draws: number of resamples.
        seed: of the resamples.
    """
    images = len(next(iter(runs.values())))
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
    score = {run: float(mean_iou(counts.sum(0))) for run, counts in runs.items()}
    return score, {run: mean_iou(np.tensordot(drawn.astype(np.float64), counts, 1)) for run, counts in runs.items()}


def interval(counts: np.ndarray) -> tuple[float, float]:
    """95% confidence interval of a run's mean IoU, from counts (images, K, 3).

    >>> interval(np.array([[[1, 2, 1]], [[1, 1, 2]]]))
    (0.5, 0.5)
    """
    low, high = np.quantile(resampled({"": counts})[1][""], [0.025, 0.975])
    return float(low), float(high)
