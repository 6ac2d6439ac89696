"""Collation of images with masks into batches. Images have sizes of their own, so they are kept in lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from vpt.data.segmentation.dataset import MaskRecord
from vpt.data.segmentation.transforms import MaskTransform


class MaskBatch(NamedTuple):
    """Images, each (3, h, w) uint8; their masks (h', w') uint8 of class indices and `IGNORE`, at the size at which
    predictions are compared; record indices (B,) int64."""

    images: list[torch.Tensor]
    labels: list[torch.Tensor]
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index

    def parts(self, count: int) -> list[MaskBatch]:
        """Split the batch into at most `count` smaller ones, in order."""
        size = -(-len(self.images) // count)
        starts = range(0, len(self.images), size)
        return [
            MaskBatch(self.images[at : at + size], self.labels[at : at + size], self.index[at : at + size])
            for at in starts
        ]

    def blank(self) -> MaskBatch:
        """A batch of one black image of the size of the first, with a mask of class 0."""
        like, mask = self.images[0], self.labels[0]
        return MaskBatch([torch.zeros_like(like)], [torch.zeros_like(mask)], torch.zeros(1).long())

    def to(self, device: torch.device) -> MaskBatch:
        """Move images and masks to a device."""
        images, masks = ([part.to(device, non_blocking=True) for part in parts] for parts in (self.images, self.labels))
        return MaskBatch(images, masks, self.index)


class MaskMaker:
    """Collates transformed images and masks into a MaskBatch."""

    def __init__(self, transform: MaskTransform) -> None:
        self.transform = transform

    def one(self, record: MaskRecord, pixels: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The transformed image and its mask."""
        mask = record.read_mask((pixels.shape[1], pixels.shape[0]))
        return self.transform(pixels, mask, seed)

    def batch(
        self, items: Sequence[tuple[torch.Tensor, torch.Tensor]], records: Sequence[Any], index: torch.Tensor
    ) -> MaskBatch:
        """Collect images and masks in lists."""
        return MaskBatch([image for image, _ in items], [mask for _, mask in items], index)
