"""Validated result types: what a prediction is, whichever way it was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Classification:
    """What one image shows.

    Args:
        image: its name.
        labels: class names, best first.
        scores: one for each label, from 0 to 1; they sum to at most 1 unless `multilabel`.
        multilabel: several labels may hold; those with a score above one half do.

    Raises:
        ValueError: scores that are not finite, out of range, or not in order.

    >>> Classification("a.jpg", ("cat", "dog"), (0.9, 0.1)).top
    'cat'
    """

    image: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    multilabel: bool = False

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.scores):
            raise ValueError(f"{self.image}: {len(self.labels)} labels with {len(self.scores)} scores")
        if not all(math.isfinite(score) and -1e-6 <= score <= 1 + 1e-6 for score in self.scores):
            raise ValueError(f"{self.image}: scores must be numbers from 0 to 1, found {self.scores}")
        if any(first < second for first, second in zip(self.scores, self.scores[1:], strict=False)):
            raise ValueError(f"{self.image}: scores must fall, found {self.scores}")

    @property
    def top(self) -> str:
        """The best label."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The best label's score."""
        return self.scores[0]

    @property
    def holding(self) -> tuple[str, ...]:
        """The labels that hold: the best one, or with several labels all above one half."""
        if not self.multilabel:
            return self.labels[:1]
        return tuple(label for label, score in zip(self.labels, self.scores, strict=True) if score > 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON.

        >>> Classification("a.jpg", ("cat",), (0.9,)).to_dict()["scores"]
        {'cat': 0.9}
        """
        return {
            "image": self.image,
            "labels": list(self.holding),
            "scores": {label: round(score, 6) for label, score in zip(self.labels, self.scores, strict=True)},
        }
