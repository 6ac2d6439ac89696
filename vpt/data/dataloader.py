"""Data loading: the order of images and their augmentation are pure functions of the seed.

They do not depend on the number of workers, the batch at which a resumed run starts, or the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vpt.data.collate import Batch, ImageMaker, Maker
from vpt.data.dataset import Record
from vpt.data.decode import MAX_PIXELS, BadImage, read
from vpt.data.image_cache import ImageCache
from vpt.data.sampler import epoch_order, sample_seed
from vpt.data.transforms.classification import Transform
from vpt.data.worker_processes import WorkerStatus, default_workers, iterate, start_worker
from vpt.utils.errors import UserError

__all__ = ["Batch", "Loader", "default_workers", "epoch_order", "loader_of", "make_loader"]


class _Key(NamedTuple):
    epoch: int
    at: int


class _Failure(NamedTuple):
    """An error in a worker. DataLoader cannot rebuild our exception types, so it is passed as a value."""

    name: str | None
    text: str


class _Items(Dataset[Any]):
    """Turns a list of keys into a batch; runs in the worker processes."""

    def __init__(
        self,
        records: Sequence[Record],
        maker: Maker,
        seed: int,
        cache: ImageCache | None,
        max_pixels: int,
        status: WorkerStatus,
        views: int | None,
    ) -> None:
        self.records = records
        self.maker = maker
        self.seed = seed
        self.cache = cache
        self.max_pixels = max_pixels
        self.status = status
        self.views = views

    def __getitems__(self, keys: list[_Key]) -> Any:
        try:
            items = [self._one(key) for key in keys]
        except BadImage as error:
            return _Failure(error.name, error.reason)
        except UserError as error:
            return _Failure(None, str(error))
        finally:
            self.status.note(None)
        index = torch.tensor([key.at for key in keys], dtype=torch.int64)
        return self.maker.batch(items, [self.records[key.at] for key in keys], index)

    def _one(self, key: _Key) -> Any:
        record = self.records[key.at]
        self.status.note(key.at)
        pixels = self.cache[key.at] if self.cache else read(record, self.max_pixels).pixels
        view = key.epoch if self.views is None else key.epoch % self.views
        try:
            return self.maker.one(record, pixels, sample_seed(self.seed, view, key.at))
        except MemoryError:
            raise BadImage(record.name, "there is not enough memory to transform it") from None
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from error


class _Batches(Sampler[list[_Key]]):
    """Batches of keys. `epoch` and `start` are set before each pass, so that workers persist between passes; a pass
    continues with the following epochs, up to `epochs`."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int,
        ranks: int,
        whole: bool,
        epochs: int,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.ranks = ranks
        self.epochs = epochs
        self.epoch = 0
        self.start = 0
        batches = range(count // batch_size if drop_last else math.ceil(count / batch_size))
        # Either every `ranks`-th batch, or every `ranks`-th image of each batch.
        self.batches = batches[rank::ranks] if whole else batches
        self.part = slice(None) if whole else slice(rank, None, ranks)

    def __iter__(self) -> Iterator[list[_Key]]:
        start = self.start
        for epoch in range(self.epoch, max(self.epoch + 1, self.epochs)):
            order = epoch_order(self.count, self.seed, epoch) if self.shuffle else np.arange(self.count)
            for batch in self.batches[start:]:
                whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield [_Key(epoch, int(index)) for index in whole[self.part]]
            start = 0


class Loader:
    """Iterates over epochs of batches; created by `make_loader`. `len()` is the number of batches per epoch."""

    def __init__(self, loader: DataLoader[Any], images: _Items, batches: _Batches) -> None:
        self._loader: DataLoader[Any] | None = loader
        self._images = images
        self._batches = batches
        self._turn = 0
        self._running: Iterator[Any] | None = None  # the workers' current pass; `_next` is its next epoch and batch
        self._next = (0, 0)

    def __len__(self) -> int:
        return len(self._batches.batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    @property
    def ranks(self) -> int:
        """Number of processes that batches are split across."""
        return self._batches.ranks

    @property
    def records(self) -> Sequence[Record]:
        """The records that `Batch.index` refers to."""
        return self._images.records

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch (counted from 0) from `start_batch` on; earlier batches are not read.

        Only one iterator can be active: starting another ends the previous one.

        Raises:
            UserError: an image became unreadable (BadImage), or a worker process died.
        """
        self._turn += 1
        return self._serve(self._turn, epoch, start_batch)

    def close(self) -> None:
        """Stop the worker processes."""
        self._turn += 1
        self._loader = self._running = None

    def _from(self, epoch: int, start: int) -> Iterator[Any]:
        """The workers' pass from a position on: the current one if it is already there, or a new one."""
        assert self._loader is not None
        if self._running is None or self._next != (epoch, start) or epoch >= self._batches.epochs:
            self._batches.epoch, self._batches.start = epoch, start
            self._images.status.clear()
            self._running = iterate(self._loader)
        return self._running

    def _serve(self, turn: int, epoch: int, start: int) -> Iterator[Batch]:
        if turn != self._turn or self._loader is None:
            raise RuntimeError("this epoch's iterator was invalidated when another one was started")
        try:
            running = self._from(epoch, start)
            for at in range(start, len(self)):
                batch = next(running)
                self._next = (epoch, at + 1) if at + 1 < len(self) else (epoch + 1, 0)
                if isinstance(batch, _Failure):
                    self._running = None
                    raise UserError(batch.text) if batch.name is None else BadImage(batch.name, batch.text)
                yield batch
                if turn != self._turn:
                    raise RuntimeError("this epoch's iterator was invalidated when another one was started")
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(self._worker_died(error)) from error

    def _worker_died(self, error: RuntimeError) -> str:
        loading = [self.records[at].name for at in self._images.status.left_behind()]
        names = f" while reading {' or '.join(loading)}" if loading else ""
        return (
            f"a data loading worker died{names} ({' '.join(str(error).split())}); if memory ran out, use fewer with "
            "data.workers=N (0: none), or give the container more shared memory (docker run --shm-size)"
        )


def make_loader(
    records: Sequence[Record],
    transform: Transform,
    *,
    batch_size: int,
    classes: int,
    multilabel: bool = False,
    seed: int = 0,
    shuffle: bool = False,
    workers: int = 0,
    cache: ImageCache | None = None,
    max_pixels: int = MAX_PIXELS,
    drop_last: bool = False,
    pin_memory: bool = False,
    rank: int = 0,
    ranks: int = 1,
    epochs: int = 1,
) -> Loader:
    """Create a loader of `records`; `loader.epoch(e, start_batch)` iterates, `for batch in loader` is epoch 0.

    `batch_size` is the total over all ranks; rank r gets images r, r + ranks, ... of each batch, which may be none of a
    short last batch (tensors with B = 0). Workers persist between epochs; if several of `epochs` are iterated one after
    the other, they prepare the next one while the last batches of the current one are used.
    `cache` must have been created from the same records.

    Raises:
        UserError: there are no records, or `drop_last` leaves no batch.

    >>> from pathlib import Path
    >>> from vpt.data.transforms.classification import EvalTransform
    >>> record = Record("a.png", Path("a.png"), (0,))
    >>> len(make_loader([record] * 5, EvalTransform(8), batch_size=2, classes=2))
    3
    """
    return loader_of(
        records,
        ImageMaker(transform, classes, multilabel),
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        workers=workers,
        cache=cache,
        max_pixels=max_pixels,
        drop_last=drop_last,
        pin_memory=pin_memory,
        rank=rank,
        ranks=ranks,
        epochs=epochs,
    )


def loader_of(
    records: Sequence[Record],
    maker: Maker,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = False,
    workers: int = 0,
    cache: ImageCache | None = None,
    max_pixels: int = MAX_PIXELS,
    drop_last: bool = False,
    pin_memory: bool = False,
    rank: int = 0,
    ranks: int = 1,
    whole: bool = False,
    epochs: int = 1,
    views: int | None = None,
) -> Loader:
    """Create a loader of whatever `maker` makes from decoded images; the other arguments are as in `make_loader`.

    `whole` splits by batch instead of by image: rank r gets batches r, r + ranks, ..., exactly as a single process
    would form them. This matters if results depend on the other images in the batch, for example through padding.
    `views` is the number of random views of an image, which the epochs take in turn; None for a new one in every epoch.
    """
    if not records:
        raise UserError("there are no images to load; check data.path")
    if drop_last and len(records) < batch_size:
        raise UserError(f"{len(records)} images do not fill one batch of {batch_size}; lower train.batch_size")
    if cache is not None and len(cache) != len(records):
        raise ValueError(f"the cache contains {len(cache)} images, not {len(records)}")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} of {ranks}")
    items = _Items(records, maker, seed, cache, max_pixels, WorkerStatus(workers), views)
    batches = _Batches(len(records), batch_size, seed, shuffle, drop_last, rank, ranks, whole, epochs)
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        # A separate generator, because otherwise each epoch draws from torch's global one, which would change dropout.
        generator=torch.Generator(),
    )
    return Loader(loader, items, batches)


def _as_is(batch: Any) -> Any:
    return batch
