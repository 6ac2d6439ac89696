"""Of boxes that overlap the best one, in operators that both torch.export and ONNX know."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torchvision  # noqa: F401  (makes torch.ops.torchvision.nms known)
from torch import Tensor


class Candidates(NamedTuple):
    """Boxes (N, 4) x1, y1, x2, y2 in pixels, scores (N,) and labels (N,) from 0 on.

    >>> few = Candidates(torch.zeros(2, 4), torch.tensor([0.1, 0.2]), torch.tensor([5, 7]))
    >>> few.where(few.scores > 0.15).labels
    tensor([7])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def where(self, kept: Tensor) -> Candidates:
        """Some of them, by booleans (N,) or places (n,)."""
        return Candidates(self.boxes[kept], self.scores[kept], self.labels[kept])


class Rule(NamedTuple):
    """What is left of candidates.

    Args:
        overlap: of two boxes of a label whose intersection over union is larger, the worse one is dropped.
        most: boxes that are left at most.
        labels: how many labels there are.
        shape: height and width of the image, in pixels, where boxes end.
        reach: no box goes further before that, in pixels.
    """

    overlap: float
    most: int
    labels: int
    shape: tuple[int, int]
    reach: int


def best(found: Candidates, rule: Rule) -> Candidates:
    """What is left, best first; boxes without area are never among it.

    >>> boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 7.], [0., 0., 8., 7.], [4., 4., 4., 9.]])
    >>> found = Candidates(boxes, torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.tensor([0, 0, 1, 1]))
    >>> best(found, Rule(overlap=0.5, most=10, labels=2, shape=(10, 10), reach=10)).scores
    tensor([0.9000, 0.8000])
    """
    boxes, scores, labels = found
    # torchvision tells torch.export that two boxes or more are always left. So there are: two points, which overlap
    # nothing, come last, and go again with whatever else has no area.
    boxes = torch.cat([boxes, boxes.new_zeros(2, 4)])
    scores = torch.cat([scores, scores.new_full((2,), -1.0)])
    labels = torch.cat([labels, labels.new_zeros(2)])
    order = torch.ops.torchvision.nms(boxes + _apart(labels, rule), scores, rule.overlap)[: rule.most]
    left = Candidates(boxes, scores, labels).where(order)
    left = left._replace(boxes=torch.minimum(left.boxes, left.boxes.new_tensor([*rule.shape[::-1]] * 2)))
    return left.where((left.boxes[:, 2:] > left.boxes[:, :2]).all(1))


def _apart(labels: Tensor, rule: Rule) -> Tensor:
    """Where the boxes of a label are moved to, (N, 4), so that those of two labels never meet.

    In a square rather than in a row: coordinates stay small, and what float32 rounds off them with it.
    """
    columns = math.ceil(math.sqrt(rule.labels))
    place = torch.stack([labels % columns, torch.div(labels, columns, rounding_mode="floor")], dim=1)
    return (place * (rule.reach + 1.0)).repeat(1, 2)
