"""Fair queue between requests and passes: tasks are scheduled by the compute time they have used."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class FullError(Exception):
    """Raised if the queue is full."""


class ClosedError(Exception):
    """Raised if the server is shutting down."""


@dataclass(frozen=True, eq=False)
class Job:
    """A piece of work for a task.

    Args:
        task: task that is charged for its time.
        lane: jobs of one lane can share a pass, and have the same cost.
        work: the work.
        request: jobs of one request are queued and dropped together.
        arrived: time of arrival, in seconds of the monotonic clock.
        end: time after which its result is no longer needed, by the same clock.
        answer: future of the result.
    """

    task: str
    lane: Hashable
    work: Any
    request: object
    arrived: float
    end: float
    answer: asyncio.Future[Any]


class FairQueue:
    """Waiting jobs. The task that has used the least time is next, and its pass is filled with others of its lane.

    So neither a slow task nor one with many images delays the others: each gets an equal fraction of the time. A task
    that was idle starts at the level of the others, whatever it used before.

    Args:
        limit: maximum number of waiting jobs.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[str, deque[Job]] = {}
        self._count = 0
        self._spent: dict[str, float] = {}  # seconds used by task
        self._level = 0.0  # seconds used by the task that was scheduled last

    def __len__(self) -> int:
        return self._count

    def arrived(self) -> float:
        """Arrival time of the oldest job."""
        return min(jobs[0].arrived for jobs in self._waiting.values())

    def put(self, jobs: Sequence[Job]) -> list[Job]:
        """Add the jobs of a request. In a full queue the newest requests of the task with most jobs are dropped.

        Returns:
            Dropped jobs.

        Raises:
            FullError: the queue is full, and no task has more jobs than that of this request.
        """
        dropped = self._room_for(jobs)
        self.remove(dropped)
        for job in jobs:
            if job.task not in self._waiting:
                self._waiting[job.task] = deque()
                self._spent[job.task] = max(self._level, self._spent.get(job.task, 0.0))
            self._waiting[job.task].append(job)
            self._count += 1
        return dropped

    def _room_for(self, jobs: Sequence[Job]) -> list[Job]:
        over = len(self) + len(jobs) - self.limit
        if over <= 0:
            return []
        counts = Counter({task: len(waiting) for task, waiting in self._waiting.items()})
        new = Counter(job.task for job in jobs)
        most = max(counts[task] + number for task, number in new.items())
        requests: set[object] = set()
        while over > 0:
            task, number = max(counts.items(), key=lambda item: item[1], default=("", 0))
            if number <= most:
                raise FullError
            newest = next(job.request for job in reversed(self._waiting[task]) if job.request not in requests)
            requests.add(newest)
            for other, waiting in self._waiting.items():
                gone = sum(job.request is newest for job in waiting)
                counts[other] -= gone
                over -= gone
        return [job for waiting in self._waiting.values() for job in waiting if job.request in requests]

    def take(self, room: Callable[[Hashable], int]) -> list[Job]:
        """Take jobs of one lane, round-robin over tasks, in order of arrival within a task.

        Args:
            room: number of jobs of a lane that fit into a pass.
        """
        if not self._waiting:
            return []
        first = min(self._waiting, key=lambda task: (self._spent[task], self._waiting[task][0].arrived))
        self._level = max(self._level, self._spent[first])
        lane = self._waiting[first][0].lane
        turn = sorted(
            (task for task, waiting in self._waiting.items() if waiting[0].lane == lane), key=self._spent.__getitem__
        )
        taken: list[Job] = []
        number = room(lane)
        while turn and len(taken) < number:
            turn = [task for task in turn if task in self._waiting and self._waiting[task][0].lane == lane]
            for task in turn[: number - len(taken)]:
                taken.append(self._waiting[task].popleft())
                self._forget_if_empty(task)
        self._count -= len(taken)
        return taken

    def charge(self, jobs: Sequence[Job], seconds: float) -> None:
        """Charge the duration of a pass to the tasks of its jobs."""
        for job in jobs:
            self._spent[job.task] = self._spent.get(job.task, self._level) + seconds / len(jobs)
        if len(self._spent) > 10_000:  # removed tasks
            self._spent = {task: self._spent[task] for task in self._waiting}

    def remove(self, jobs: Iterable[Job]) -> None:
        """Remove jobs from the queue."""
        gone = set(jobs)
        if not gone:
            return
        for task in {job.task for job in gone} & set(self._waiting):
            kept = deque(job for job in self._waiting[task] if job not in gone)
            self._count -= len(self._waiting[task]) - len(kept)
            self._waiting[task] = kept
            self._forget_if_empty(task)

    def clear(self) -> list[Job]:
        """Remove all jobs."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._count = 0
        return jobs

    def _forget_if_empty(self, task: str) -> None:
        if not self._waiting[task]:
            del self._waiting[task]
