"""Non-maximum suppression in operators supported by both torch.export and ONNX."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision.nms)
from torch import Tensor

from vpt.interop.export.integer_division import quotient


class Candidates(NamedTuple):
    """Boxes (N, 4) x1, y1, x2, y2 in pixels, scores (N,) and labels (N,) from 0.

    >>> few = Candidates(torch.zeros(2, 4), torch.tensor([0.1, 0.2]), torch.tensor([5, 7]))
    >>> few.where(few.scores > 0.15).labels
    tensor([7])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def where(self, kept: Tensor) -> Candidates:
        """Select some of them, by booleans (N,) or indices (n,)."""
        return Candidates(self.boxes[kept], self.scores[kept], self.labels[kept])


class Rule(NamedTuple):
    """Selection of boxes among candidates.

    Args:
        overlap: IoU threshold of non-maximum suppression within a label.
        most: maximum number of boxes.
        labels: number of labels.
        shape: height and width of the image in pixels, to which boxes are clipped.
        reach: maximum coordinate before clipping, in pixels.
    """

    overlap: float
    most: int
    labels: int
    shape: tuple[int, int]
    reach: int


def best(found: Candidates, rule: Rule) -> Candidates:
    """The selected boxes, highest score first; boxes without area are removed.

    >>> boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 7.], [0., 0., 8., 7.], [4., 4., 4., 9.]])
    >>> found = Candidates(boxes, torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.tensor([0, 0, 1, 1]))
    >>> best(found, Rule(overlap=0.5, most=10, labels=2, shape=(10, 10), reach=10)).scores
    tensor([0.9000, 0.8000])
    """
    boxes, scores, labels = found
    # torchvision declares to torch.export that at least two boxes are always kept. So two points are appended, which
    # overlap nothing, come last, and are removed with all other boxes without area.
    boxes = torch.cat([boxes, boxes.new_zeros(2, 4)])
    scores = torch.cat([scores, scores.new_full((2,), -1.0)])
    labels = torch.cat([labels, labels.new_zeros(2)])
    order = torch.ops.torchvision.nms(boxes + _apart(labels, rule), scores, rule.overlap)[: rule.most]
    left = Candidates(boxes, scores, labels).where(order)
    left = left._replace(boxes=torch.minimum(left.boxes, left.boxes.new_tensor([*rule.shape[::-1]] * 2)))
    return left.where((left.boxes[:, 2:] > left.boxes[:, :2]).all(1))


def _apart(labels: Tensor, rule: Rule) -> Tensor:
    """Offsets (N, 4) that move boxes of different labels apart, so that they never overlap.

    Labels are arranged in a square rather than in a row: coordinates stay small, and so do their float32 rounding
    errors.
    """
    columns = math.ceil(math.sqrt(rule.labels))
    row = quotient(labels, columns)
    place = torch.stack([labels - row * columns, row], dim=1)
    return (place * (rule.reach + 1.0)).repeat(1, 2)
