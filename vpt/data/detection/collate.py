"""Batches of images of different sizes with their boxes, in the same order and with the same seeds as other batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.transforms import BoxTransform, Target


class BoxBatch(NamedTuple):
    """Images, each (3, h, w) uint8; a target for each; record indices (B,) int64."""

    images: list[torch.Tensor]
    labels: list[Target]
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index

    def parts(self, count: int) -> list[BoxBatch]:
        """Split the batch into at most `count` smaller ones, in order."""
        size = -(-len(self.images) // count)
        starts = range(0, len(self.images), size)
        return [
            BoxBatch(self.images[at : at + size], self.labels[at : at + size], self.index[at : at + size])
            for at in starts
        ]

    def blank(self) -> BoxBatch:
        """A batch of one small black image without boxes, index and original size, because it is no record."""
        nothing = torch.zeros(0, dtype=torch.int64)
        target = Target(torch.zeros(0, 4), nothing, nothing.bool(), 0, 0)
        return BoxBatch([torch.zeros(3, 32, 32, dtype=torch.uint8)], [target], nothing)

    def to(self, device: torch.device) -> BoxBatch:
        """Move images and targets to a device."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return BoxBatch(images, [target.to(device) for target in self.labels], self.index)


class BoxMaker:
    """Collates resized images and targets into a BoxBatch."""

    def __init__(self, transform: BoxTransform) -> None:
        self.transform = transform

    def one(self, record: BoxRecord, pixels: np.ndarray, seed: int) -> tuple[torch.Tensor, Target]:
        """The resized image and its target."""
        return self.transform(pixels, record, seed)

    def batch(
        self, items: Sequence[tuple[torch.Tensor, Target]], records: Sequence[Any], index: torch.Tensor
    ) -> BoxBatch:
        """Collect images and targets in lists, because sizes differ."""
        return BoxBatch([image for image, _ in items], [target for _, target in items], index)
