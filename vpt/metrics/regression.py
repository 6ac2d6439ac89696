"""Metrics of predicted numbers, and of ranks of ordered classes, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.metrics.classification import Floats
from vpt.metrics.group_bootstrap import DRAWS, group_intervals
from vpt.utils.errors import NotFinite

MOST = 100_000  # images of a split of which intervals are computed


def regression_metrics(
    predicted: Floats, wanted: Floats, groups: Sequence[str] = (), draws: int = DRAWS
) -> dict[str, Any]:
    """Metrics of predicted numbers (N,): R2, MAE, RMSE and Pearson's correlation, with 95% intervals.

    Args:
        predicted: (N,).
        wanted: (N,) true numbers.
        groups: group of each image, over which intervals are computed; default: over images.
        draws: number of resamples; 0: no intervals.

    Raises:
        NotFinite: numbers that are not finite.

    >>> found = regression_metrics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    >>> found["r2"], round(found["mae"], 3)
    (0.5, 0.333)
    """
    bad = int((~np.isfinite(predicted)).sum())
    if bad:
        raise NotFinite(f"{bad} of {len(predicted)} predicted numbers are not finite")
    one = np.ones((1, len(wanted)))
    found: dict[str, Any] = {
        name: float(value[0]) for name, value in weighted_regression(predicted, wanted, one).items()
    }
    if not np.isfinite(found["r2"]):  # all numbers are the same; as scikit-learn has it
        found["r2"] = 1.0 if found["mae"] == 0 else 0.0
    if not np.isfinite(found["pearson"]):
        del found["pearson"]
    limits: dict[str, tuple[float, float]] = {}
    if draws and len(wanted) <= MOST:
        limits = group_intervals(
            lambda drawn: weighted_regression(predicted, wanted, drawn), len(wanted), groups, draws
        )
    return found | {"images": len(wanted), "intervals": {name: list(limits[name]) for name in found if name in limits}}


def weighted_regression(predicted: Floats, wanted: Floats, weights: Floats) -> dict[str, Floats]:
    """The metrics (D,) for D weightings (D, N) of the images, NaN where they are undefined."""
    shares = weights / weights.sum(1, keepdims=True)
    near, true = predicted - wanted.mean(), wanted - wanted.mean()
    own = float(np.abs(true).max())
    scale = max(own, float(np.abs(near).max())) or 1.0  # so that numbers of any size have a square
    near, true, least = near / scale, true / scale, 1e-14 * (own / scale) ** 2
    squared = shares @ (near - true) ** 2
    mean_true, mean_near = shares @ true, shares @ near
    spread_true, spread_near = shares @ true**2 - mean_true**2, shares @ near**2 - mean_near**2
    together = shares @ (near * true) - mean_near * mean_true
    constant = spread_true <= least
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "r2": np.where(constant, np.nan, 1 - squared / spread_true),
            "mae": scale * (shares @ np.abs(near - true)),
            "rmse": scale * np.sqrt(squared),
            "pearson": np.where(
                constant | (spread_near <= 1e-14), np.nan, together / np.sqrt(spread_true * spread_near)
            ),
        }


def rank_metrics(
    predicted: NDArray[Any], wanted: NDArray[Any], classes: int, groups: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Quadratic weighted kappa and mean absolute error of ranks (N,), and their intervals.

    >>> rank_metrics(np.array([0, 1, 2]), np.array([0, 1, 2]), classes=3)[0]
    {'quadratic_kappa': 1.0, 'rank_error': 0.0}
    """
    near, true = predicted.astype(np.float64), wanted.astype(np.float64)

    def weighted(weights: Floats) -> dict[str, Floats]:
        shares = weights / weights.sum(1, keepdims=True)
        squared = shares @ (near - true) ** 2
        # Expected for independent ranks: both variances, and the squared difference of the means.
        by_chance = shares @ near**2 + shares @ true**2 - 2 * (shares @ near) * (shares @ true)
        with np.errstate(divide="ignore", invalid="ignore"):
            kappa = np.where(by_chance > 1e-12, 1 - squared / by_chance, np.nan)
        return {"quadratic_kappa": kappa, "rank_error": shares @ np.abs(near - true)}

    one = {name: float(value[0]) for name, value in weighted(np.ones((1, len(true)))).items()}
    found = {name: value for name, value in one.items() if np.isfinite(value)}
    return found, group_intervals(weighted, len(true), groups) if len(true) <= MOST else {}
