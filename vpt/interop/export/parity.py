"""How far two lists of boxes are apart that should be the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Boxes = tuple[Tensor, Tensor, Tensor]  # (n, 4) in pixels, scores (n,), labels (n,)


class Difference(NamedTuple):
    """Of boxes that were compared.

    Args:
        score: the largest difference of two scores that belong together.
        pixels: the largest difference of their boxes' edges.
        boxes: how many were compared, of both sides.
        alone: how many of them have no partner on the other side.
    """

    score: float
    pixels: float
    boxes: int
    alone: int


def difference(pairs: Sequence[tuple[Boxes, Boxes]], score: float = 0.01, pixels: float = 1.0) -> Difference:
    """How far boxes of two sides are apart.

    Two belong together if they have the same label, scores less than `score` and edges less than `pixels` apart. Order
    does not count: rounding changes places among equals. Rounding also decides now and then which of two boxes that
    overlap by just the limit stays, so that a few are alone.

    Args:
        pairs: of each image, the boxes of the one and of the other side.
        score: from 0 to 1.
        pixels: of the image.

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
