"""How sure a difference is: intervals of an accuracy, and of the difference of two on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Paired:
    """Two methods on the same images.

    Args:
        images: how many.
        only_first: images that the first alone told right.
        only_second: images that the second alone told right.
        difference: accuracy of the second minus that of the first.
        low, high: 95% interval of the difference, by the paired bootstrap.
        p: of McNemar's exact test: how often methods that are equally good would differ so much.
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
        """Whether chance in which images were tested is a poor explanation (p < 0.05)."""
        return self.p < 0.05

    @property
    def same(self) -> str:
        """What to say if nothing tells them apart, or ""."""
        return "" if self.only_first or self.only_second else "they are right on the same images"


@dataclass(frozen=True)
class Gain:
    """A score of the second method minus that of the first, on the same images.

    Args:
        difference: of the scores.
        low, high: 95% interval, by the paired bootstrap.
    """

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether chance in which images were tested is a poor explanation: zero is outside of the interval."""
        return self.low > 0 or self.high < 0

    @property
    def same(self) -> str:
        """What to say if nothing tells them apart, or ""."""
        return "they score the same" if self.low == self.difference == self.high == 0 else ""


def gain(first: np.ndarray, second: np.ndarray, difference: float) -> Gain:
    """The 95% interval of a difference, from the scores (draws,) of both methods on the same draws of images.

    >>> gain(np.zeros(100), np.linspace(0.1, 0.2, 100), 0.15).clear
    True
    """
    low, high = np.quantile(second - first, [0.025, 0.975])
    return Gain(difference, float(low), float(high))


def shared_images(truth: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The images that all runs answered, by name, in the first run's order.

    Args:
        truth: run -> image -> what is true of it, of every image that the run answered.

    Raises:
        UserError: no image in common, or another truth for the same image.

    >>> shared_images({"one": {"a.png": "cat", "b.png": "dog"}, "other": {"b.png": "dog"}})
    ['b.png']
    """
    first = next(iter(truth.values()))
    names = [name for name in first if all(name in found for found in truth.values())]
    if not names:
        raise UserError("the runs answered no image in common, so they cannot be compared image by image")
    for name in names:
        if any(found[name] != first[name] for found in truth.values()):
            raise UserError(f"the runs differ in what is true of {name}; they were measured on different data")
    return names


def verdict(found: Paired | Gain) -> str:
    """A difference in plain words.

    >>> verdict(paired([True] * 10, [True] * 10)), verdict(Gain(0.02, -0.01, 0.05))
    ('they are right on the same images', 'could well be chance')
    """
    if found.same:
        return found.same
    return "more than chance explains" if found.clear else "could well be chance"


def wilson(right: int, images: int) -> tuple[float, float]:
    """95% interval of an accuracy (Wilson 1927): where that on endless images of this kind lies.

    >>> low, high = wilson(354, 359)
    >>> round(low, 3), round(high, 3)
    (0.968, 0.994)
    """
    from scipy.stats import binomtest  # half a second to import

    if images == 0:
        return 0.0, 1.0
    found = binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """p of McNemar's exact two-sided test (1947): of the images that one method alone got right, each is as likely one
    method's as the other's.

    >>> mcnemar(0, 5), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired(first: Sequence[bool], second: Sequence[bool], draws: int = 10_000, seed: int = 0) -> Paired:
    """Compare what two methods told right.

    A draw of as many images with replacement is a multinomial count of the three things an image can say (only the
    first right, only the second, no difference), so the bootstrap needs no loop over images.

    >>> paired([True, False], [True, True]).difference
    0.5
    """
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    images = len(one)
    if images == 0 or images != len(other):
        raise ValueError(f"{images} and {len(other)} answers do not pair")
    lost, won = int((one & ~other).sum()), int((other & ~one).sum())
    shares = np.array([lost, won, images - lost - won]) / images
    counts = np.random.default_rng(seed).multinomial(images, shares, size=draws)
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / images, [0.025, 0.975])
    return Paired(images, lost, won, (won - lost) / images, float(low), float(high), mcnemar(lost, won))
