"""One loader for several trainings that walk through it side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpt.data.dataloader import Loader


class SharedLoader:
    """Gives every training the same batch object at the same place; the images are read and augmented once.

    Trainings that keep step with each other cost one pass; one that falls behind is served too, by another pass.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._users = 0
        self._batches: Iterator[Any] = iter(())
        self._place: tuple[int, int] | None = None  # of the batch that was read last
        self._batch: Any = None

    def join(self) -> SharedLoader:
        """One more training; each ends with `close`."""
        self._users += 1
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        """Batches of an epoch, from the one numbered `start_batch`."""
        for at in range(start_batch, len(self)):
            yield self._at(epoch, at)

    def _at(self, epoch: int, at: int) -> Any:
        if self._place != (epoch, at):
            if self._place != (epoch, at - 1):
                self._batches = self._loader.epoch(epoch, at)
            self._batch = next(self._batches)
            self._place = (epoch, at)
        return self._batch

    def close(self) -> None:
        """A training leaves; with the last one the worker processes end."""
        self._users -= 1
        if self._users == 0:
            self._loader.close()
