"""Collation of images with masks into batches. Images have sizes of their own, so they are kept in lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from vpt.data.segmentation.dataset import IGNORE, MaskRecord
from vpt.data.segmentation.transforms import MaskTransform


class MaskBatch(NamedTuple):
    """Images, each (3, h, w) uint8; their masks (h', w') uint8 of class indices and `IGNORE`, at the size at which
    predictions are compared; record indices (B,) int64; side of a blank image in pixels."""

    images: list[torch.Tensor]
    labels: list[torch.Tensor]
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index
    side: int = 32

    def parts(self, count: int) -> list[MaskBatch]:
        """Split the batch into at most `count` smaller ones, in order."""
        size = -(-len(self.images) // count)
        starts = range(0, len(self.images), size)
        return [
            MaskBatch(self.images[at : at + size], self.labels[at : at + size], self.index[at : at + size], self.side)
            for at in starts
        ]

    def blank(self) -> MaskBatch:
        """A batch of one black image whose pixels are all ignored, without index, because it is no record."""
        side = self.side
        image, mask = torch.zeros(3, side, side, dtype=torch.uint8), torch.full((side, side), IGNORE, dtype=torch.uint8)
        return MaskBatch([image], [mask], torch.zeros(0, dtype=torch.int64), side)

    def to(self, device: torch.device) -> MaskBatch:
        """Move images and masks to a device."""
        images, masks = ([part.to(device, non_blocking=True) for part in parts] for parts in (self.images, self.labels))
        return MaskBatch(images, masks, self.index, self.side)


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
        return MaskBatch([image for image, _ in items], [mask for _, mask in items], index, self.transform.size)
