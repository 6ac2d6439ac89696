"""Caches of what the frozen part of a model computes, for runs that see the same pixels in several epochs: without
augmentation, or with a fixed number of views of each image (`data.views`).

Without a prompt that is the input of the head. With prompts in the last k of L layers only, it is the input of the
first of these, so that a step takes about k/L of the time.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vpt.config import FrozenTuning
from vpt.data.collate import Batch
from vpt.data.image_cache import available_memory
from vpt.data.sampler import epoch_order
from vpt.models.classifier import PromptedModel
from vpt.training.context import RunContext
from vpt.training.step import Batches, Forward
from vpt.utils.distributed import ranks

MEMORY, DISK = 0.5, 0.5  # fraction of what is free that a cache may take


class FeatureLoader:
    """Loader of cached features, in the same order as the image loader.

    Args:
        features: (V * N, C), or tokens (V * N, T, C): those of the first view of all images, then of the second, ...
        labels: (N,) or (N, K).
        rank: this process gets images rank, rank + ranks, ... of each batch.
        ranks: number of processes.

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
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.features = features
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank, self.ranks = rank, ranks
        self.views = len(features) // len(labels)
        self.batches = len(labels) // batch_size if drop_last else -(-len(labels) // batch_size)

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `start_batch` on; `images` contains features (B, C) or tokens (B, T, C)."""
        count = len(self.labels)
        order = torch.from_numpy(epoch_order(count, self.seed, epoch)) if self.shuffle else torch.arange(count)
        wanted = order[start_batch * self.batch_size : self.batches * self.batch_size]
        first = epoch % self.views * count
        for batch in wanted.split(self.batch_size) if len(wanted) else ():
            index = batch[self.rank :: self.ranks]
            yield Batch(self.features[first + index], self.labels[index], index)


@dataclass(frozen=True)
class FrozenPart:
    """The part of a model that is the same in every epoch, and the rest.

    Args:
        fixed: maps uint8 images (B, 3, S, S) to what is cached.
        rest: maps that to logits.
        what: what is computed only once.
        shape: of what is cached for one view of an image.
        views: views of each training image.
    """

    fixed: Forward
    rest: Forward
    what: str
    shape: tuple[int, ...]
    views: int


def frozen_part(model: PromptedModel, context: RunContext) -> FrozenPart | None:
    """The part of a model whose results can be cached in a run; None if there is none, or too little memory and disk.

    There is one with frozen weights and without augmentation or with a fixed number of views, if there are no prompts,
    or none in the lower layers.
    """
    config = context.config
    views = 1 if config.data.augment == "none" else config.data.views
    if not isinstance(config.tuning, FrozenTuning) or views is None:
        return None
    if model.channels is not None and model.channels.learned:
        return None
    shape: tuple[int, ...] = (1, model.image_channels, model.image_size, model.image_size)
    blank = torch.zeros(shape, dtype=torch.uint8, device=context.device)
    fixed: Forward = model.features
    rest: Forward = model.head
    what = "features"
    if model.prompt is not None:
        regulated = bool(config.prompt.objective) or model.has_extra_losses or model.test_time is not None
        layer = 0 if regulated or len(model.drop_paths) else model.first_prompted
        if layer == 0:
            return None
        fixed, what = partial(model.tokens_below, layer), _first(layer)
        with torch.no_grad(), context.autocast():
            rest = model.forward_above(layer, blank)
    with torch.no_grad(), context.autocast():
        shape = tuple(fixed(blank).shape[1:])
    part = FrozenPart(fixed, rest, what, shape, min(views, config.train.epochs or 1))
    images = part.views * len(context.data.train) + len(context.data.val)
    if place_for(4 * images * math.prod(shape)) is None:
        context.console.say(f"too little memory and disk is free to cache the output of {what}")
        return None
    return part


def _first(layers: int) -> str:
    return "the first layer" if layers == 1 else f"the first {layers} layers"


def place_for(size: int) -> str | None:
    """Where a cache of `size` bytes fits: "memory", "disk", or None. Every process has its own.

    >>> place_for(1000)
    'memory'
    """
    free, size = available_memory(), size * ranks().count
    if free is None or size <= MEMORY * free:
        return "memory"
    return "disk" if size <= DISK * shutil.disk_usage(tempfile.gettempdir()).free else None


def feature_loader(part: FrozenPart, model: PromptedModel, context: RunContext, split: str) -> Batches:
    """Compute what a frozen part returns for all images of a split, and create a loader of it."""
    model.eval()
    training, records = split == "train", context.data.split(split)
    views, count = part.views if training else 1, len(records)
    loader = context.loader(model, records, split, training=training and context.config.data.augment != "none")
    features = _empty((views * count, *part.shape), place_for(4 * views * count * math.prod(part.shape)))
    labels: Tensor | None = None
    with torch.no_grad(), context.console.progress(views * len(loader), f"{part.what} of {split}") as bar:
        for view in range(views):
            for batch in loader.epoch(view):
                with context.autocast():
                    found = part.fixed(batch.images.to(context.device, non_blocking=True)).float()
                features[view * count + batch.index] = found.cpu()
                labels = batch.labels.new_empty(count, *batch.labels.shape[1:]) if labels is None else labels
                labels[batch.index] = batch.labels
                bar.advance(1, images=len(found))
    loader.close()
    assert labels is not None
    train = context.config.train
    return FeatureLoader(
        features,
        labels,
        batch_size=context.batch_size,
        seed=train.seed,
        shuffle=training,
        drop_last=training and context.drop_last,
        rank=ranks().rank,
        ranks=ranks().count,
    )


def _empty(shape: tuple[int, ...], place: str | None) -> Tensor:
    """A tensor in memory, or in a file without a name that disappears with the process."""
    if place != "disk":
        return torch.empty(shape)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a disk that fills up is reported here, and not as a crash later
            os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
