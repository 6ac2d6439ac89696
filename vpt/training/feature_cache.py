"""Cached features: a frozen backbone without prompts that sees the same pixels every epoch needs only one pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vpt.data.collate import Batch
from vpt.data.sampler import epoch_order


class FeatureLoader:
    """Loader of pooled features, in the same order as the image loader.

    Args:
        features: (N, C).
        labels: (N,) or (N, K).

    >>> loader = FeatureLoader(torch.zeros(5, 2), torch.zeros(5), batch_size=2, seed=0, shuffle=True)
    >>> [len(batch.images) for batch in loader.epoch(0, start_batch=1)]
    [2, 1]
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
    ) -> None:
        self.features = features
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.batches = len(labels) // batch_size if drop_last else -(-len(labels) // batch_size)

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `start_batch` on; `images` contains features (B, C)."""
        count = len(self.labels)
        order = torch.from_numpy(epoch_order(count, self.seed, epoch)) if self.shuffle else torch.arange(count)
        wanted = order[start_batch * self.batch_size : self.batches * self.batch_size]
        for index in wanted.split(self.batch_size) if len(wanted) else ():
            yield Batch(self.features[index], self.labels[index], index)
