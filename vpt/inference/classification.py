"""Result of classification: the most confident classes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vpt.inference.result import Result
from vpt.inference.results import as_scores, in_range


class Classification(Result):
    """Most confident classes of one image.

    Args:
        image: name of the image.
        labels: class names, most confident first.
        scores: (K,) score of each label, from 0 to 1; they sum to at most 1 unless `multilabel`.
        multilabel: images may have several labels; those with a score above 0.5 are predicted.
        decided: the labels predicted by a threshold instead.
        unsure: labels whose score is close to their threshold.
        unknown_score: score from 0 to 1 of having none of the labels; above 0.5 it has none.

    Raises:
        ValueError: scores are not finite, out of range, or not in descending order.

    >>> found = Classification("a.jpg", ("cat", "dog"), (0.9, 0.1))
    >>> found.top, found.scores
    ('cat', array([0.9, 0.1]))
    """

    def __init__(
        self,
        image: str,
        labels: Sequence[str],
        scores: Sequence[float] | np.ndarray,
        multilabel: bool = False,
        decided: Sequence[str] | None = None,
        unsure: Sequence[str] = (),
        unknown_score: float | None = None,
    ) -> None:
        self.image = image
        self.unknown_score = unknown_score
        self.decided = None if decided is None else tuple(decided)
        self.unsure = () if self.unknown else tuple(unsure)
        self.labels = tuple(labels)
        self.scores = as_scores(scores)
        self.multilabel = multilabel
        if not self.labels or self.scores.shape != (len(self.labels),):
            raise ValueError(f"{image}: {len(self.labels)} labels with {self.scores.size} scores")
        if not in_range(self.scores).all():
            raise ValueError(f"{image}: scores must be numbers from 0 to 1, found {self.scores.tolist()}")
        if unknown_score is not None and not 0 <= unknown_score <= 1:
            raise ValueError(f"{image}: unknown_score must be a number from 0 to 1, found {unknown_score}")
        if (np.diff(self.scores) > 0).any():
            raise ValueError(f"{image}: scores must be in descending order, found {self.scores.tolist()}")

    @property
    def top(self) -> str:
        """The most confident label."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The score of the most confident label."""
        return float(self.scores[0])

    @property
    def unknown(self) -> bool:
        """Whether the image is judged to have none of the labels, because it is unlike the training images.

        >>> Classification("a.jpg", ("cat",), (0.9,), unknown_score=0.7).unknown
        True
        """
        return self.unknown_score is not None and self.unknown_score > 0.5

    @property
    def holding(self) -> tuple[str, ...]:
        """The predicted labels: the most confident one, with `multilabel` all above 0.5, or those of a threshold; none
        if the image is `unknown`."""
        if self.unknown:
            return ()
        if self.decided is not None:
            return self.decided
        if not self.multilabel:
            return self.labels[:1]
        return tuple(label for label, score in zip(self.labels, self.scores, strict=True) if score > 0.5)

    columns = ("image", "rank", "label", "score")

    @classmethod
    def columns_with(cls, decision: bool, unknown: bool) -> tuple[str, ...]:
        """Names of the values in rows, with those of a decision by threshold and of a score of unknown images."""
        return (
            *cls.columns,
            *(("decision", "unsure") if decision else ()),
            *(("unknown", "unknown_score") if unknown else ()),
        )

    @property
    def row_columns(self) -> tuple[str, ...]:
        """See Result.row_columns."""
        return self.columns_with(self.decided is not None, self.unknown_score is not None)

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 with the classes and their scores below it; a small one is enlarged."""
        from vpt.inference.draw import with_strip
        from vpt.metrics.detection_plots import enlarged

        return with_strip(enlarged(pixels)[0], self.labels, self.scores.tolist(), self.holding)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Convert to plain values for JSON, with the scores of at most `top` labels.

        >>> Classification("a.jpg", ("cat",), (0.9,)).to_dict()["scores"]
        {'cat': 0.9}
        """
        scores, score = list(zip(self.labels, self.scores.tolist(), strict=True))[:top], self.unknown_score
        return {
            "image": self.image,
            "labels": list(self.holding),
            "scores": {label: round(score, 6) for label, score in scores},
            **({"unsure": list(self.unsure)} if self.unsure else {}),
            **({} if score is None else {"unknown": self.unknown, "unknown_score": round(score, 6)}),
        }

    def rows(self) -> list[tuple[object, ...]]:
        """A row for every label, with the predicted and unsure labels of the image if a threshold decided on them, and
        whether it is unknown if there is a score for that; see `row_columns`."""
        pairs = zip(self.labels, self.scores, strict=True)
        decided: list[object] = [] if self.decided is None else ["|".join(self.holding), "|".join(self.unsure)]
        if self.unknown_score is not None:
            decided += ["yes" if self.unknown else "no", f"{self.unknown_score:.6f}"]
        return [(self.image, rank, label, f"{score:.6f}", *decided) for rank, (label, score) in enumerate(pairs, 1)]

    def lines(self) -> list[str]:
        """All labels in one line, after "none of these" or those that a threshold decided on."""
        decided = "" if self.decided is None else f"[{', '.join(self.decided) or ('unsure' if self.unsure else '-')}]  "
        decided = "[none of these]  " if self.unknown else decided
        scores = "  ".join(f"{label} {score:.3f}" for label, score in zip(self.labels, self.scores, strict=True))
        return [decided + scores]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Classification):
            return NotImplemented
        mine, theirs = (
            (each.image, each.labels, each.multilabel, each.scores.tolist(), each.holding, each.unknown_score)
            for each in (self, other)
        )
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.image, self.labels))

    def __repr__(self) -> str:
        best = ", ".join(f"{label} {score:.3f}" for label, score in zip(self.labels, self.scores, strict=True))
        return f"Classification({self.image!r}: {best})"
