"""Confidence intervals of accuracies, and significance tests of paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Paired:
    """Paired comparison of two methods on the same images.

    Args:
        images: number of images.
        only_first: images that only the first method classified correctly.
        only_second: images that only the second method classified correctly.
        difference: accuracy of the second minus that of the first.
        low, high: 95% interval of the difference, by the paired bootstrap.
        p: p-value of McNemar's exact test: probability of such a difference between equally good methods.
    """

    images: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float

    @property
    def clear(self) -> bool:
        """Whether the difference is significant with respect to the choice of test images (p < 0.05)."""
        return self.p < 0.05

    @property
    def same(self) -> str:
        """Message if the methods do not differ, or ""."""
        return "" if self.only_first or self.only_second else "both are correct on the same images"


@dataclass(frozen=True)
class Gain:
    """Score of the second method minus that of the first, on the same images.

    Args:
        difference: of the scores.
        low, high: 95% interval, by the paired bootstrap.
    """

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the difference is significant with respect to the choice of images: its interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def same(self) -> str:
        """Message if the methods do not differ, or ""."""
        return "equal scores" if self.low == self.difference == self.high == 0 else ""


def gain(first: np.ndarray, second: np.ndarray, difference: float) -> Gain:
    """The 95% interval of a difference, from scores (draws,) of both methods on the same resamples of images.

    >>> gain(np.zeros(100), np.linspace(0.1, 0.2, 100), 0.15).clear
    True
    """
    low, high = np.quantile(second - first, [0.025, 0.975])
    return Gain(difference, float(low), float(high))


def shared_images(truth: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the images that all runs have predictions for, in the first run's order.

    Args:
        truth: run -> image -> labels, for every image that the run has predictions for.

    Raises:
        UserError: no image in common, or different labels for the same image.

    >>> shared_images({"one": {"a.png": "cat", "b.png": "dog"}, "other": {"b.png": "dog"}})
    ['b.png']
    """
    first = next(iter(truth.values()))
    names = [name for name in first if all(name in found for found in truth.values())]
    if not names:
        raise UserError("the runs have no image in common, so they cannot be compared image by image")
    for name in names:
        if any(found[name] != first[name] for found in truth.values()):
            raise UserError(f"the runs have different labels for {name}; they were evaluated on different data")
    return names


def verdict(found: Paired | Gain) -> str:
    """A difference in words.

    >>> verdict(paired([True] * 10, [True] * 10)), verdict(Gain(0.02, -0.01, 0.05))
    ('both are correct on the same images', 'not significant')
    """
    if found.same:
        return found.same
    return "statistically significant" if found.clear else "not significant"


def wilson(right: int, images: int) -> tuple[float, float]:
    """95% confidence interval of an accuracy (Wilson 1927).

    >>> low, high = wilson(354, 359)
    >>> round(low, 3), round(high, 3)
    (0.968, 0.994)
    """
    from scipy.stats import binomtest  # takes half a second to import

    if images == 0:
        return 0.0, 1.0
    found = binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """p-value of McNemar's exact two-sided test (1947). Under the null hypothesis, an image that only one method
    classifies correctly is equally likely to be either method's.

    >>> mcnemar(0, 5), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired(first: Sequence[bool], second: Sequence[bool], draws: int = 10_000, seed: int = 0) -> Paired:
    """Compare which images two methods classify correctly.

    A resample of the images is a multinomial count of three outcomes (only the first correct, only the second, no
    difference), so the bootstrap needs no loop over images.

    >>> paired([True, False], [True, True]).difference
    0.5
    """
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    images = len(one)
    if images == 0 or images != len(other):
        raise ValueError(f"{images} and {len(other)} answers cannot be paired")
    lost, won = int((one & ~other).sum()), int((other & ~one).sum())
    shares = np.array([lost, won, images - lost - won]) / images
    counts = np.random.default_rng(seed).multinomial(images, shares, size=draws)
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / images, [0.025, 0.975])
    return Paired(images, lost, won, (won - lost) / images, float(low), float(high), mcnemar(lost, won))
