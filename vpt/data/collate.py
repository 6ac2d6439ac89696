"""Collation: from decoded images to items and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from vpt.data.dataset import Record
from vpt.data.transforms.classification import Transform


class Batch(NamedTuple):
    """Images (B, 3, H, W) uint8; labels (B,) int64, (B, K) float32 of 0 and 1, or numbers (B,) float32; record indices
    (B,) int64."""

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed

    def parts(self, count: int) -> list[Batch]:
        """Split the batch into at most `count` smaller ones, in order."""
        cut = (self.images.chunk(count), self.labels.chunk(count), self.index.chunk(count))
        return [Batch(*part) for part in zip(*cut, strict=True)]

    def blank(self) -> Batch:
        """A batch of one black image of the same size, with a label; it has no index, because it is no record."""
        images = torch.zeros(1, *self.images.shape[1:], dtype=self.images.dtype)
        return Batch(images, torch.zeros(1, *self.labels.shape[1:], dtype=self.labels.dtype), torch.zeros(0).long())

    def to(self, device: torch.device) -> Batch:
        """Move images and labels to a device."""
        images, labels = (part.to(device, non_blocking=True) for part in (self.images, self.labels))
        return Batch(images, labels, self.index)


class Maker(Protocol):
    """Turns decoded images into items and batches; runs in the worker processes."""

    def one(self, record: Any, pixels: np.ndarray, seed: int) -> Any:
        """An item, a function of its arguments only."""

    def batch(self, items: Sequence[Any], records: Sequence[Any], index: torch.Tensor) -> Any:
        """A batch of items; `index` are the indices of their records."""


class ImageMaker:
    """Collates transformed images and labels into a Batch."""

    def __init__(self, transform: Transform, classes: int, multilabel: bool, numeric: bool = False) -> None:
        self.transform = transform
        self.classes = classes
        self.multilabel = multilabel
        self.numeric = numeric

    def one(self, record: Record, pixels: np.ndarray, seed: int) -> torch.Tensor:
        """The transformed image."""
        return self.transform(pixels, seed)

    def batch(self, items: Sequence[torch.Tensor], records: Sequence[Record], index: torch.Tensor) -> Batch:
        """Stack images and labels."""
        # Copied with numpy: torch would start its thread pool for each image, seven times slower on a busy machine.
        images = np.empty((len(items), *self.transform.shape), dtype=np.uint8)
        for row, item in enumerate(items):
            images[row] = item.numpy()
        return Batch(torch.from_numpy(images), self._labels(records), index)

    def _labels(self, records: Sequence[Any]) -> torch.Tensor:
        if self.numeric:
            return torch.tensor([record.number for record in records], dtype=torch.float32)
        if not self.multilabel:
            return torch.tensor([record.labels[0] for record in records], dtype=torch.int64)
        labels = torch.zeros((len(records), self.classes), dtype=torch.float32)
        for row, record in enumerate(records):
            labels[row, list(record.labels)] = 1.0
        return labels
