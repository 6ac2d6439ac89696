"""The processes that load images: how many, how they start, and what is told when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info


class Desk:
    """The image that each worker has at hand, in memory that all processes see, so that the main one can name it if a
    worker is killed over it.

    >>> desk = Desk(workers=0)
    >>> desk.note(3)  # outside of a worker nothing is noted
    >>> desk.left_behind()
    []
    """

    def __init__(self, workers: int) -> None:
        self._places = torch.full((max(1, workers), 2), -1, dtype=torch.int64)  # process and record of each worker
        if workers:
            self._places.share_memory_()

    def clear(self) -> None:
        """Forget what was noted."""
        self._places.fill_(-1)

    def note(self, at: int | None) -> None:
        """Leave word, in a worker, of the record that it takes up; None when it has put it down."""
        worker = get_worker_info()
        if worker is not None:
            self._places[worker.id] = torch.tensor([os.getpid(), -1 if at is None else at])

    def left_behind(self) -> list[int]:
        """Records that workers held who are not alive any more."""
        alive = {child.pid for child in multiprocessing.active_children()}
        return [at for pid, at in self._places.tolist() if at >= 0 and pid not in alive]


def default_workers() -> int:
    """Loader processes that suit this machine: 0 on two cores or fewer without a GPU, else all but one, at most 16.

    >>> 0 <= default_workers() <= 16
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores <= 2 and not torch.cuda.is_available():
        return 0
    return min(16, max(1, cores - 1))


def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """`iter(loader)`, but the death of a worker is found when a batch is fetched.

    torch sets a signal handler that raises RuntimeError wherever the main program happens to be at that moment.
    """
    if not loader.num_workers or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    batches = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches


def start_worker(worker_id: int) -> None:
    """What a worker does first."""
    import cv2

    # Ctrl-C reaches all processes of a terminal; the training decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # OpenCV's threads do not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore", module=r"PIL\b")
