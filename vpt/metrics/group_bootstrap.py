"""Bootstrap intervals over images, or over groups of them such as patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vpt.metrics.classification import Floats

DRAWS = 2000
LARGEST = 4_000_000  # numbers of a block of resamples


def group_intervals(
    measure: Callable[[Floats], Mapping[str, Floats]],
    images: int,
    groups: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% confidence intervals by the bootstrap over groups, or over images if they have none.

    Args:
        measure: metrics (D,) of weights (D, N), how often each image was drawn; NaN where they are undefined.
        images: their number N.
        groups: group of each image; empty or all "": every image is its own.
        draws: number of resamples.
        seed: of the resamples.

    >>> group_intervals(lambda weights: {"mean": weights @ np.ones(3) / weights.sum(1)}, images=3)
    {'mean': (1.0, 1.0)}
    """
    place = np.unique(groups, return_inverse=True)[1] if any(groups) else np.arange(images)
    count = int(place.max()) + 1 if images else 0
    if count < 2:
        return {}
    generator = np.random.default_rng(seed)
    block = max(1, LARGEST // (images * 4))
    found: dict[str, list[Floats]] = {}
    for start in range(0, draws, block):
        size = min(block, draws - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=size)[:, place].astype(np.float64)
        for name, values in measure(weights).items():
            found.setdefault(name, []).append(values)
    limits = {}
    for name, parts in found.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]  # a resample may lack a class
        if len(values) > draws / 2:
            low, high = np.quantile(values, [0.025, 0.975])
            limits[name] = (float(low), float(high))
    return limits
