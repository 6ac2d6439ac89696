"""Dynamic batching: images that arrive together go through the backbone together, whatever their tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Run = Callable[[Sequence[np.ndarray], Sequence[str], int], Sequence[Any]]


class FullError(Exception):
    """More images wait than the queue holds."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class _Item:
    pixels: np.ndarray
    task: str
    top: int
    answer: asyncio.Future[Any]


class Batcher:
    """Collects images and runs them in batches, one batch at a time.

    Args:
        run: images, tasks and how many classes to name -> an answer for each; called in a thread.
        max_batch: images in a batch at most.
        wait_s: how long the first image of a batch waits for others.
        limit: images that may wait.
        observe: called with the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        wait_s: float,
        limit: int,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._limit = limit
        self._observe = observe
        self._waiting: list[_Item] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vpt-batch")
        self._loop: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to serve, within a running event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Answer what waits with ClosedError, and end."""
        self._closed = True
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        for item in self._waiting:
            if not item.answer.done():
                item.answer.set_exception(ClosedError())
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, images: Sequence[np.ndarray], tasks: Sequence[str], top: int) -> list[Any]:
        """Answers for images and their tasks; all of them enter the queue, or none.

        Raises:
            FullError: the queue has no room for all.
            ClosedError: the server is shutting down.
        """
        if self._closed:
            raise ClosedError
        if len(self._waiting) + len(images) > self._limit:
            raise FullError
        loop = asyncio.get_running_loop()
        items = [_Item(pixels, task, top, loop.create_future()) for pixels, task in zip(images, tasks, strict=True)]
        self._waiting += items
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(item.answer for item in items)))
        except BaseException:
            # Nobody waits any more: what has not run yet need not.
            for item in items:
                item.answer.cancel()
            raise

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            first = time.monotonic()
            while len(self._waiting) < self._max_batch and (left := self._wait_s - (time.monotonic() - first)) > 0:
                self._arrived.clear()
                try:
                    await asyncio.wait_for(self._arrived.wait(), left)
                except TimeoutError:
                    break
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
            if self._waiting:
                self._arrived.set()
            else:
                self._arrived.clear()
            wanted = [item for item in batch if not item.answer.done()]
            if wanted:
                await self._answer(wanted)

    async def _answer(self, items: Sequence[_Item]) -> None:
        """Run a batch. If it fails as a whole, its images are run one by one, so that one bad task fails alone."""
        started = time.monotonic()
        try:
            answers = await self._in_thread(items)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if len(items) == 1:
                _fail(items[0], error)
            else:
                for item in items:
                    await self._answer([item])
            return
        self._observe(len(items), time.monotonic() - started)
        for item, answer in zip(items, answers, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)

    async def _in_thread(self, items: Sequence[_Item]) -> Sequence[Any]:
        images, tasks = [item.pixels for item in items], [item.task for item in items]
        top = max(item.top for item in items)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, images, tasks, top)


def _fail(item: _Item, error: BaseException) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)
