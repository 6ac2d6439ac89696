"""Bounding boxes of COCO's segmentations (polygons and run-length encodings), for annotations without `bbox`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vpt.data.annotation_text import measure
from vpt.data.detection.dataset import Box

MOST_RUNS = 10_000_000  # per object; a real annotation has fewer


def segmentation_box(segmentation: Any) -> Box | None:
    """The box x1, y1, x2, y2 around polygons, or around run-length encodings (COCO's RLE, a list or compressed); None
    if it is neither, or empty. No mask is created, because a file may state any size.

    >>> segmentation_box([[5, 5, 25, 5, 25, 20]])
    (5.0, 5.0, 25.0, 20.0)
    >>> segmentation_box({"size": [4, 4], "counts": [5, 2, 9]})
    (1.0, 1.0, 2.0, 3.0)
    """
    if isinstance(segmentation, dict):
        return _run_box(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    numbers: list[float] = []
    for polygon in polygons:
        values = [measure(value) for value in polygon] if isinstance(polygon, list) else [None]
        if len(values) % 2 or len(values) < 4 or any(value is None for value in values):
            return None
        numbers += [value for value in values if value is not None]
    if not all(map(math.isfinite, numbers)):
        return math.nan, math.nan, math.nan, math.nan
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _run_box(runs: dict[str, Any]) -> Box | None:
    """The box of a run-length encoding, which counts pixels down the columns, background first."""
    size, counts = runs.get("size"), runs.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and 0 < side < 2**31 for side in size):
        return None
    if isinstance(counts, str):
        counts = decompressed(counts)
    if not isinstance(counts, list) or len(counts) > MOST_RUNS:
        return None
    if not all(type(count) is int and 0 <= count < 2**62 for count in counts):
        return None
    height, width = size
    if sum(counts) > height * width:
        return None
    ends = np.cumsum(np.array(counts, dtype=np.int64)) if counts else np.zeros(0, np.int64)
    starts, lasts = ends[:-1:2], ends[1::2] - 1  # of the runs that belong to the object
    starts = starts[: len(lasts)]
    there = lasts >= starts
    starts, lasts = starts[there], lasts[there]
    if not len(starts):
        return None
    across = starts // height != lasts // height  # a run over two columns reaches both edges
    tops = np.where(across, 0, starts % height)
    bottoms = np.where(across, height - 1, lasts % height)
    left, right = starts.min() // height, lasts.max() // height
    return float(left), float(tops.min()), float(right + 1), float(bottoms.max() + 1)


def decompressed(text: str) -> list[int] | None:
    """Decode COCO's compressed run lengths; None if they are damaged.

    Five bits per character, from code 48 on; the sixth bit says that more follow, the fifth bit of the last is the
    sign; from the fourth number on each is the difference to the one two before.

    >>> decompressed("52203")
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for sign in text:
        code = ord(sign) - 48
        if not 0 <= code < 64 or shift > 60 or len(counts) > MOST_RUNS:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts
