"""Compares two lists of boxes that should be equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Boxes = tuple[Tensor, Tensor, Tensor]  # (n, 4) in pixels, scores (n,), labels (n,)


class Difference(NamedTuple):
    """Result of a comparison of boxes.

    Args:
        score: largest difference of two matched scores.
        pixels: largest difference of the edges of matched boxes.
        boxes: number of compared boxes, of both sides.
        alone: number of boxes without a match.
    """

    score: float
    pixels: float
    boxes: int
    alone: int


def difference(pairs: Sequence[tuple[Boxes, Boxes]], score: float = 0.01, pixels: float = 1.0) -> Difference:
    """Compare boxes of two sides.

    Two boxes match if they have the same label, and scores and edges that differ by less than `score` and `pixels`. The
    order is ignored: rounding changes the order of equal scores. Rounding can also decide which of two boxes with an
    overlap near the threshold is kept, so a few boxes may have no match.

    Args:
        pairs: for each image, the boxes of both sides.
        score: tolerance of scores from 0 to 1.
        pixels: tolerance of edges in pixels.

    >>> one = (torch.tensor([[0., 0., 8., 8.]]), torch.tensor([0.5]), torch.tensor([1]))
    >>> difference([(one, (one[0] + 0.25, one[1], one[2]))])
    Difference(score=0.0, pixels=0.25, boxes=2, alone=0)
    >>> difference([(one, (one[0], one[1], one[2] + 1))]).alone
    2
    """
    worst = [0.0, 0.0]
    count = alone = 0
    for mine, theirs in pairs:
        count += len(mine[1]) + len(theirs[1])
        shifts = (mine[0][:, None] - theirs[0][None]).abs().amax(2)
        steps = (mine[1][:, None] - theirs[1][None]).abs()
        together = (mine[2][:, None] == theirs[2][None]) & (shifts < pixels) & (steps < score)
        alone += int((~together.any(1)).sum() + (~together.any(0)).sum())
        for place, distance in enumerate((steps, shifts)):
            nearest = distance.masked_fill(~together, torch.inf).flatten(1)
            if nearest.numel():
                least = nearest.amin(1)
                worst[place] = max(worst[place], float(least[least.isfinite()].amax()) if least.isfinite().any() else 0)
    return Difference(worst[0], worst[1], count, alone)
