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


@dataclass(frozen=True)
class Detections:
    """What stands where in one image.

    Args:
        image: its name.
        width: of the image, in pixels.
        height: of the image, in pixels.
        boxes_xyxy: left, top, right and bottom of each box, in pixels, best box first.
        labels: the class of each box.
        scores: of each box, from 0 to 1.

    Raises:
        ValueError: numbers that are not finite or out of range, or lists of different lengths.

    >>> Detections("a.jpg", 20, 10, ((1.0, 2.0, 5.0, 6.0),), ("cat",), (0.9,)).to_coco()[0]["bbox"]
    [1.0, 2.0, 4.0, 4.0]
    """

    image: str
    width: int
    height: int
    boxes_xyxy: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.boxes_xyxy) == len(self.labels) == len(self.scores):
            raise ValueError(f"{self.image}: boxes, labels and scores differ in number")
        for box, score in zip(self.boxes_xyxy, self.scores, strict=True):
            if len(box) != 4 or not all(map(math.isfinite, (*box, score))) or not -1e-6 <= score <= 1 + 1e-6:
                raise ValueError(
                    f"{self.image}: a box needs four finite numbers and a score from 0 to 1: {box}, {score}"
                )
            if box[2] < box[0] or box[3] < box[1]:
                raise ValueError(f"{self.image}: a box must not end before it starts: {box}")

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Only the boxes with at least that score."""
        kept = [index for index, each in enumerate(self.scores) if each >= score]
        return Detections(
            self.image,
            self.width,
            self.height,
            tuple(self.boxes_xyxy[index] for index in kept),
            tuple(self.labels[index] for index in kept),
            tuple(self.scores[index] for index in kept),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "boxes": [
                {"label": label, "score": round(score, 6), "box_xyxy": [round(value, 2) for value in box]}
                for box, label, score in zip(self.boxes_xyxy, self.labels, self.scores, strict=True)
            ],
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO's form of results, with the class by name and the image by name."""
        return [
            {
                "file_name": self.image,
                "category": label,
                "bbox": [round(box[0], 3), round(box[1], 3), round(box[2] - box[0], 3), round(box[3] - box[1], 3)],
                "score": round(score, 6),
            }
            for box, label, score in zip(self.boxes_xyxy, self.labels, self.scores, strict=True)
        ]
