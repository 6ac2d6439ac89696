"""The queue between requests and passes: tasks take turns by the time that they have cost."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class FullError(Exception):
    """More images wait than the queue holds."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True, eq=False)
class Job:
    """Something to compute for a task.

    Args:
        task: whose time it takes.
        lane: jobs of one lane can share a pass, and cost the same.
        work: what to compute.
        request: jobs of one request come and go together.
        arrived: when, in seconds of the clock that runs on.
        end: when nobody waits for it any more, by the same clock.
        answer: where the result goes.
    """

    task: str
    lane: Hashable
    work: Any
    request: object
    arrived: float
    end: float
    answer: asyncio.Future[Any]


class FairQueue:
    """Jobs that wait. The task that has cost least time is next, and fills its pass with others of its lane.

    So neither a slow task nor one with many images holds the others up: each gets an equal share of the time. A task
    that was idle starts level with the rest, whatever it cost before.

    Args:
        limit: jobs that may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[str, deque[Job]] = {}
        self._count = 0
        self._spent: dict[str, float] = {}  # seconds, of tasks that wait or have waited
        self._level = 0.0  # what the task that was last taken had spent

    def __len__(self) -> int:
        return self._count

    def arrived(self) -> float:
        """When the job that has waited longest came."""
        return min(jobs[0].arrived for jobs in self._waiting.values())

    def put(self, jobs: Sequence[Job]) -> list[Job]:
        """Let the jobs of a request wait. In a full queue the newest requests of the task with most jobs make room.

        Returns:
            Jobs that were taken out.

        Raises:
            FullError: there is no room, and no task has more jobs than this request's would have.
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
        """Take out jobs of one lane, each task's in their order, one of each task in turn.

        Args:
            room: how many jobs of a lane a pass takes.
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
        """Count the time that a pass took against the tasks of its jobs."""
        for job in jobs:
            self._spent[job.task] = self._spent.get(job.task, self._level) + seconds / len(jobs)
        if len(self._spent) > 10_000:  # tasks that have gone
            self._spent = {task: self._spent[task] for task in self._waiting}

    def remove(self, jobs: Iterable[Job]) -> None:
        """Take out jobs, wherever they wait."""
        gone = set(jobs)
        if not gone:
            return
        for task in {job.task for job in gone} & set(self._waiting):
            kept = deque(job for job in self._waiting[task] if job not in gone)
            self._count -= len(self._waiting[task]) - len(kept)
            self._waiting[task] = kept
            self._forget_if_empty(task)

    def clear(self) -> list[Job]:
        """Take out all jobs."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._count = 0
        return jobs

    def _forget_if_empty(self, task: str) -> None:
        if not self._waiting[task]:
            del self._waiting[task]
