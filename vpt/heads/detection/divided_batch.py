"""Training losses of detectors for batches that are divided across processes.

Detectors divide by the number of matched anchors or sampled boxes in a batch, and pad images to the largest one in it.
Both are taken here from the images of all processes, so that the loss is that of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from vpt.utils.distributed import all_reduce


class DividedBatch:
    """This process's part of a batch.

    >>> batch = DividedBatch()
    >>> batch.images = 2
    >>> batch.factor(5), batch.largest([3, 32, 48])  # of a single process
    (1.0, [3, 32, 48])
    """

    images = 0  # number of images of this process; 0 if it computes a blank one instead

    def factor(self, count: int) -> float:
        """What a mean over `count` items is multiplied by, so that the average over processes, weighted by images, is
        the mean over the items of all processes. All processes must call it."""
        total, images = all_reduce([count if self.images else 0, self.images])
        return max(1, count) / max(1.0, total) * images / max(1, self.images)

    def largest(self, sizes: Sequence[int]) -> list[int]:
        """Maxima over all processes, all of which must call it."""
        return [int(size) for size in all_reduce(sizes, "max")]


class _CountingSampler(BalancedPositiveNegativeSampler):
    """Counts the boxes of the last batch that it sampled."""

    count = 0

    def __call__(self, matched: list[Tensor]) -> Any:
        chosen = super().__call__(matched)
        self.count = sum(int(mask.sum()) for masks in chosen for mask in masks)
        return chosen


def divide_losses(detector: Any, batch: DividedBatch) -> None:
    """Let a torchvision detector pad images and normalise losses over all processes in training, in place.

    Args:
        detector: FCOS, RetinaNet, SSD or Faster R-CNN.
        batch: its `images` are set before every pass.
    """
    transform = detector.transform

    def max_by_axis(sizes: list[list[int]]) -> list[int]:
        own = type(transform).max_by_axis(transform, sizes)
        return batch.largest(own) if detector.training else own

    transform.max_by_axis = max_by_axis
    if isinstance(detector, FasterRCNN):
        _divide_sampled(detector.rpn, batch)
        _divide_sampled(detector.roi_heads, batch)
    elif not isinstance(detector, RetinaNet):  # its losses are means over images
        _divide_matched(detector.head if isinstance(detector, FCOS) else detector, batch)


def _divide_matched(owner: Any, batch: DividedBatch) -> None:
    """Losses divided by the number of matched anchors."""

    def compute_loss(targets: Any, outputs: Any, anchors: Any, matched: list[Tensor]) -> dict[str, Tensor]:
        losses = type(owner).compute_loss(owner, targets, outputs, anchors, matched)
        factor = batch.factor(sum(int((each >= 0).sum()) for each in matched))
        return {name: loss * factor for name, loss in losses.items()}

    owner.compute_loss = compute_loss


def _divide_sampled(part: Any, batch: DividedBatch) -> None:
    """Losses divided by the number of sampled boxes."""
    sampler = _CountingSampler(part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction)
    part.fg_bg_sampler = sampler

    def forward(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        boxes, losses = type(part).forward(part, *args, **kwargs)
        factor = batch.factor(sampler.count) if losses else 1.0
        return boxes, {name: loss * factor for name, loss in losses.items()}

    part.forward = forward
