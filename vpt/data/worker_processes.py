"""Data loading worker processes: how many, how they start, and what to report when one dies."""

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


class WorkerStatus:
    """The image that each worker is loading, in shared memory, so that the main process can name it if a worker is
    killed.

    >>> status = WorkerStatus(workers=0)
    >>> status.note(3)  # does nothing outside of a worker
    >>> status.left_behind()
    []
    """

    def __init__(self, workers: int) -> None:
        self._places = torch.full((max(1, workers), 2), -1, dtype=torch.int64)  # process and record of each worker
        if workers:
            self._places.share_memory_()

    def clear(self) -> None:
        """Reset the status of all workers."""
        self._places.fill_(-1)

    def note(self, at: int | None) -> None:
        """Record, in a worker, the index it starts to load; None when it is done."""
        worker = get_worker_info()
        if worker is not None:
            self._places[worker.id] = torch.tensor([os.getpid(), -1 if at is None else at])

    def left_behind(self) -> list[int]:
        """Indices of records that dead workers were loading."""
        alive = {child.pid for child in multiprocessing.active_children()}
        return [at for pid, at in self._places.tolist() if at >= 0 and pid not in alive]


def default_workers() -> int:
    """Suitable number of workers for this machine: 0 on two cores or fewer without a GPU, else all but one, at most 16.

    >>> 0 <= default_workers() <= 16
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores <= 2 and not torch.cuda.is_available():
        return 0
    return min(16, max(1, cores - 1))


def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """Like `iter(loader)`, but a dead worker is noticed when a batch is fetched.

    torch installs a signal handler that raises RuntimeError wherever the main program happens to be.
    """
    if not loader.num_workers or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    batches = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches


def start_worker(worker_id: int) -> None:
    """Initialise a worker process."""
    import cv2

    # Ctrl-C reaches all processes of a terminal; the trainer decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # OpenCV's threads do not survive a fork, and the workers are the parallelism.
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore", module=r"PIL\b")
