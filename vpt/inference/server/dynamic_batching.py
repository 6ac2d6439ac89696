"""Dynamic batching: images that arrive together share a pass through the backbone, whatever their tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vpt.inference.bank.answers import BrokenTaskError
from vpt.inference.bank.deadline import TooSlowError
from vpt.inference.bank.task import TaskError
from vpt.inference.server.fair_queue import ClosedError, FairQueue, FullError, Job
from vpt.inference.server.multipart_frames import bare

# Pieces of work of one lane, and a time limit in seconds -> a result for each; called in a thread. The result of a task
# that fails is its TaskError. Raises TooSlowError.
Run = Callable[[Sequence[Any], float], Sequence[Any]]

PASS_S = 1.0  # maximum duration of a pass, which limits its images so that others are not delayed
REST_S = 10.0  # delay before a failed task is tried again; doubled each time
MAX_REST_S = 300.0

logger = logging.getLogger("vpt.inference.server")


class SlowTaskError(TaskError):
    """Result of a task whose pass was stopped at its deadline."""


@dataclass(frozen=True)
class Work:
    """Work for a task, and the lane whose passes it can share."""

    task: str
    lane: Hashable
    work: Any


@dataclass
class _Rest:
    seconds: float
    end: float
    error: TaskError


class Batcher:
    """Collects work and runs it in batches, one at a time.

    Args:
        run: computes a batch.
        max_batch: maximum batch size.
        wait_s: seconds that the first image of a batch waits for others.
        limit: maximum number of waiting images.
        task_s: time limit of a pass in seconds.
        observe: called with the size and duration of each batch.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        wait_s: float,
        limit: int,
        task_s: float = 10.0,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._task_s = task_s
        self._observe = observe
        self._queue = FairQueue(limit)
        self._cost: dict[Hashable, float] = {}  # seconds per image, by lane
        self._resting: dict[str, _Rest] = {}
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vpt-batch")
        self._loop: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of images in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """Start, within a running event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Fail all waiting work with ClosedError, and stop."""
        self._closed = True
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        for job in self._queue.clear():
            _settle(job, ClosedError())
        self._thread.shutdown(wait=False, cancel_futures=True)

    def forgive(self, tasks: Iterable[str]) -> None:
        """Allow failed tasks immediately, because they were reloaded."""
        for task in tasks:
            self._resting.pop(task, None)

    async def submit(self, works: Sequence[Work], seconds: float) -> list[Any]:
        """Results of pieces of work; all of them enter the queue, or none. The result of a task that fails is its
        TaskError.

        Args:
            works: pieces of work.
            seconds: time after which the results are no longer needed.

        Raises:
            FullError: the queue has no room for all.
            ClosedError: the server is shutting down.
        """
        if self._closed:
            raise ClosedError
        loop, now, request = asyncio.get_running_loop(), time.monotonic(), object()
        jobs = [
            Job(each.task, each.lane, each.work, request, now, now + seconds, loop.create_future()) for each in works
        ]
        for job in jobs:
            rest = self._resting.get(job.task)
            if rest is not None and rest.end > now:
                job.answer.set_result(rest.error)
        for dropped in self._queue.put([job for job in jobs if not job.answer.done()]):
            _settle(dropped, FullError())
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(job.answer for job in jobs)))
        except BaseException:
            # The results are no longer needed: drop work that has not started.
            self._queue.remove(jobs)
            for job in jobs:
                job.answer.cancel()
            raise

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            while 0 < len(self._queue) < self._max_batch:
                left = self._queue.arrived() + self._wait_s - time.monotonic()
                if left <= 0:
                    break
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), left)
            jobs = self._queue.take(self._room)
            if len(self._queue):
                self._arrived.set()
            else:
                self._arrived.clear()
            now = time.monotonic()
            wanted = [job for job in jobs if not job.answer.done() and job.end > now]
            if wanted:
                await self._answer(wanted)

    def _room(self, lane: Hashable) -> int:
        """Number of images of a lane in a pass; one until their duration is known."""
        cost = self._cost.get(lane)
        return 1 if cost is None else max(1, min(self._max_batch, int(PASS_S / max(cost, 1e-9))))

    async def _answer(self, jobs: Sequence[Job]) -> None:
        """Run a batch of one lane."""
        started = time.monotonic()
        seconds = min(self._task_s, max(job.end for job in jobs) - started)
        stopped = False
        work = [job.work for job in jobs]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work, seconds)
        except TooSlowError:
            stopped = True
            answers = [SlowTaskError(f"task {job.task} took longer than {seconds:.1f} seconds") for job in jobs]
        except Exception as error:
            if len({job.task for job in jobs}) > 1:
                for task in dict.fromkeys(job.task for job in jobs):
                    await self._answer([job for job in jobs if job.task == task])
                return
            answers = [error] * len(jobs)
        took = time.monotonic() - started
        self._observe(len(jobs), took)
        self._queue.charge(jobs, took)
        self._learn_cost(jobs[0].lane, took / len(jobs), stopped)
        # A single image that reached the time limit: a smaller batch will not help.
        failed = BrokenTaskError | SlowTaskError if len(jobs) == 1 and seconds >= self._task_s else BrokenTaskError
        self._learn_failures(jobs, answers, failed)
        for job, answer in zip(jobs, answers, strict=True):
            _settle(job, answer)

    def _learn_cost(self, lane: Hashable, seconds: float, stopped: bool) -> None:
        """Update the duration of an image of a lane; an increased estimate if the pass was stopped."""
        before = self._cost.get(lane, seconds)
        # The first pass of a lane is slowest, so a shorter duration is used immediately.
        self._cost[lane] = 2 * seconds if stopped else seconds if seconds < before else 0.7 * before + 0.3 * seconds
        if len(self._cost) > 10_000:  # lanes of removed tasks
            self._cost = {lane: self._cost[lane]}

    def _learn_failures(self, jobs: Sequence[Job], answers: Sequence[Any], failed: Any) -> None:
        """Suspend tasks for a while if all their results were errors."""
        for task in {job.task for job in jobs}:
            mine = [answer for job, answer in zip(jobs, answers, strict=True) if job.task == task]
            if all(isinstance(answer, failed) for answer in mine):
                self._rest(task, mine[0])
            else:
                self._resting.pop(task, None)

    def _rest(self, task: str, error: TaskError) -> None:
        before = self._resting.get(task)
        seconds = REST_S if before is None else min(MAX_REST_S, 2 * before.seconds)
        logger.error("%s; it is suspended for %g seconds", error, seconds, exc_info=error.__cause__)
        self._resting[task] = _Rest(seconds, time.monotonic() + seconds, bare(error))


def _settle(job: Job, answer: Any) -> None:
    if job.answer.done():
        return
    if isinstance(answer, Exception) and not isinstance(answer, TaskError):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result(answer)
