"""All images of a split, decoded once, in memory shared with the worker processes."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from vpt.data.dataset import Record
from vpt.data.decode import MAX_PIXELS, BadImage, header_pixels, read
from vpt.utils.errors import UserError

MEMORY_FRACTION = 0.8
Progress = Callable[[int, int], None]  # images done, images in all


class ImageCache:
    """Decoded images by record index, as read-only arrays (H, W, 3) uint8, or of `data.channels` channels.

    Create it before the loader: workers inherit the memory instead of copying it.
    """

    def __init__(
        self, records: Sequence[Record], max_pixels: int = MAX_PIXELS, progress: Progress | None = None
    ) -> None:
        """Decode `records`. `progress(done, total)` is called after each.

        Raises:
            UserError: the pixels need more than 80 % of the free memory.
            BadImage: an image cannot be read.
        """
        self._channels = (records[0].channels if records else None) or 3
        sizes = [self._channels * pixels for pixels in _header_pixels(records, max_pixels)]
        check_memory(sum(sizes))
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._shapes = np.zeros((len(records), 2), dtype=np.int64)
        self._pixels = torch.empty(int(sum(sizes)), dtype=torch.uint8)
        if multiprocessing.get_start_method() != "fork":
            # A forked worker inherits ordinary memory, which is not limited by /dev/shm (64 MB in Docker).
            self._pixels.share_memory_()
        with ThreadPoolExecutor(threads()) as pool:
            tasks = pool.map(lambda index: self._fill(index, records[index], max_pixels), range(len(records)))
            for done, _ in enumerate(tasks, 1):
                if progress is not None:
                    progress(done, len(records))

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = (int(side) for side in self._shapes[index])
        end = int(self._ends[index])
        start = end - self._channels * height * width
        view = self._pixels.numpy()[start:end].reshape(height, width, self._channels)
        view.flags.writeable = False
        return view

    @property
    def nbytes(self) -> int:
        """Memory of the pixels in bytes."""
        return self._pixels.numel()

    def _fill(self, index: int, record: Record, max_pixels: int) -> None:
        pixels = read(record, max_pixels).pixels
        start = int(self._ends[index - 1]) if index else 0
        if pixels.size != int(self._ends[index]) - start:
            raise BadImage(record.name, "its header states another size; save it again, or set data.cache=false")
        self._shapes[index] = pixels.shape[:2]
        self._pixels.numpy()[start : start + pixels.size] = pixels.reshape(-1)


def check_memory(needed: int, available: int | None = None) -> None:
    """Raise UserError if `needed` bytes exceed 80 % of `available`; default: the free memory of the machine.

    >>> check_memory(90, 100)
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.cache=true needs 0.0 GB for the decoded images, more than 80% of the 0.0 GB ...
    """
    available = available_memory() if available is None else available
    if available is not None and needed > MEMORY_FRACTION * available:
        raise UserError(
            f"data.cache=true needs {needed / 1e9:.1f} GB for the decoded images, more than "
            f"{MEMORY_FRACTION:.0%} of the {available / 1e9:.1f} GB of free memory; set data.cache=false "
            "or shrink the images on disk"
        )


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can still be allocated, within the container's limit if there is one; None if unknown.

    >>> available_memory(Path("/no/such"), Path("/no/such")) is None
    True
    """
    free = math.inf
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # File pages count as used but can be reclaimed.
        free = min(free, limit - used + int(counts.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # "max", or no such control group
    return None if math.isinf(free) else int(free)


def threads() -> int:
    """Number of threads for decoding: one per core, at most 8, because Pillow releases the interpreter lock."""
    return min(8, os.cpu_count() or 1)


def _header_pixels(records: Sequence[Record], max_pixels: int) -> list[int]:
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(lambda record: header_pixels(record, max_pixels), records))
