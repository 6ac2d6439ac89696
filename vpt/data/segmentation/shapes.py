"""Masks drawn from shapes: polygons (COCO, YOLO) and run-length encodings (COCO), without trust in their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpt.data.decode import BadImage
from vpt.data.detection.segmentation_boxes import MOST_RUNS, decompressed
from vpt.data.segmentation.dataset import IGNORE, Size

_MOST_CROSSINGS = 50_000_000  # of the edges of one object with the rows of its image; a real outline has thousands
_AT_ONCE = 1_000_000
_MOST_WORK = 5_000_000_000  # pixels looked at for one mask; real ones need a thousandth
_FAR = 1e9


@dataclass(frozen=True)
class Shape:
    """One object.

    Args:
        label: its class.
        polygons: flat x, y, x, y, ... of each, in pixels or, with `fractions`, of the image's sides.
        runs: lengths of runs down the columns, background first, instead of polygons.
        size: width and height that the runs are for.
        crowd: pixels that no other object covers are ignored.
    """

    label: int
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] | str = ()
    size: Size | None = None
    crowd: bool = False
    fractions: bool = False

    def draw(self, size: Size) -> tuple[tuple[slice, slice], np.ndarray]:
        """The object in an image of that width and height: the rows and columns around it, and its pixels there (bool).

        Raises:
            ValueError: it does not fit the image; the message is the end of a sentence.
        """
        if self.runs:
            return (slice(None), slice(None)), self._decoded(size)
        scale = np.array(size if self.fractions else (1, 1), dtype=np.float64)
        polygons = [np.array(points, dtype=np.float64).reshape(-1, 2) * scale for points in self.polygons]
        if any(np.abs(points).max(initial=0) > _FAR for points in polygons):
            raise ValueError("has a polygon with points far outside the image")
        left, top, right, bottom = _around(polygons, size)
        corner = np.array([left, top], dtype=np.float64)
        pixels = fill([points - corner for points in polygons], (right - left, bottom - top))
        return (slice(top, bottom), slice(left, right)), pixels

    def work(self, size: Size) -> int:
        """Number of pixels that `draw` looks at."""
        if self.runs:
            return size[0] * size[1]
        scale = np.array(size if self.fractions else (1, 1), dtype=np.float64)
        points = [np.array(points, dtype=np.float64).reshape(-1, 2) * scale for points in self.polygons]
        left, top, right, bottom = _around(points, size)
        return (right - left) * (bottom - top) * len(points)

    def _decoded(self, size: Size) -> np.ndarray:
        if self.size != size:
            raise ValueError("has a run-length encoding of another size than the image")
        counts = decompressed(self.runs) if isinstance(self.runs, str) else list(self.runs)
        if counts is None or len(counts) > MOST_RUNS or any(count < 0 for count in counts):
            raise ValueError("has a run-length encoding that cannot be read")
        if sum(counts) != size[0] * size[1]:
            raise ValueError("has a run-length encoding of another number of pixels than the image")
        flags = np.arange(len(counts)) % 2 == 1
        return np.repeat(flags, counts).reshape(size[0], size[1]).T


def _around(polygons: Sequence[np.ndarray], size: Size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in whole pixels of the part of the image that holds the polygons."""
    points = np.concatenate([np.zeros((0, 2)), *polygons])
    if not len(points):
        return 0, 0, 0, 0
    low = np.floor(points.min(0)).clip(0, size).astype(int)
    high = np.ceil(points.max(0)).clip(low, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


@dataclass(frozen=True)
class Shapes:
    """The mask of an image that is drawn from objects: the largest first, so that small ones stay visible.

    Args:
        file: the annotation file.
        shapes: the objects.
        ground: class of pixels in no object, or `IGNORE`.
        stated: width and height of the image that the file states, if it does.
    """

    file: Path
    shapes: tuple[Shape, ...]
    ground: int
    stated: Size | None = None

    def size(self, max_pixels: int) -> Size | None:
        """The stated width and height; None if the objects are in fractions of the image's sides."""
        return self.stated

    def read(self, size: Size) -> np.ndarray:
        """The mask (H, W) uint8."""
        if sum(shape.work(size) for shape in self.shapes) > _MOST_WORK:
            raise BadImage(self.file.name, f"its {len(self.shapes)} objects cover the image far too often")
        mask = np.full((size[1], size[0]), self.ground, np.uint8)
        sizes = []
        for number, shape in enumerate(self.shapes, 1):
            try:
                sizes.append(int(np.count_nonzero(shape.draw(size)[1])))
            except ValueError as error:
                raise BadImage(self.file.name, f"object {number} of the image {error}") from None
        # Drawn a second time instead of kept, because there may be thousands.
        largest_first = sorted(range(len(sizes)), key=lambda at: (not self.shapes[at].crowd, -sizes[at]))
        for shape in (self.shapes[at] for at in largest_first):
            place, pixels = shape.draw(size)
            mask[place][pixels] = IGNORE if shape.crowd else shape.label
        return mask

    def unknown(self, size: Size) -> list[str]:
        """Nothing: every object has a class."""
        return []


def fill(polygons: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """The pixels (H, W) bool whose centres lie inside one of the polygons (n, 2), by the even-odd rule for each.

    Raises:
        ValueError: points that are not finite, or an outline that crosses the rows of the image too often.

    >>> fill([np.array([[1, 0], [3, 0], [3, 2], [1, 2]])], (4, 3)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    width, height = size
    found = np.zeros((height, width), bool)
    for points in polygons:
        if not np.isfinite(points).all() or np.abs(points).max(initial=0) > _FAR:
            raise ValueError("has a polygon with points far outside the image")
        x, y = points.T
        other_x, other_y = np.roll(x, -1), np.roll(y, -1)
        # Row r is crossed if its centre r + 0.5 lies in [low, high).
        low, high = np.minimum(y, other_y), np.maximum(y, other_y)
        first, stop = (np.ceil(edge - 0.5).clip(0, height).astype(np.int64) for edge in (low, high))
        counts = stop - first
        if counts.sum() > _MOST_CROSSINGS:
            raise ValueError("has a polygon whose outline is far too long")
        flips = np.zeros((height, width + 1), np.uint8)
        ends = np.cumsum(counts)
        at = 0
        while at < len(counts):  # in pieces, which bounds the memory
            until = max(at + 1, int(np.searchsorted(ends, (ends[at - 1] if at else 0) + _AT_ONCE)))
            part = slice(at, until)
            edge = np.repeat(np.arange(at, min(until, len(counts))), counts[part])
            row = np.arange(len(edge)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part]) + first[edge]
            slope = (other_x[edge] - x[edge]) / np.where(other_y[edge] == y[edge], 1, other_y[edge] - y[edge])
            column = np.ceil(x[edge] + (row + 0.5 - y[edge]) * slope - 0.5).clip(0, width).astype(np.int64)
            np.add.at(flips, (row, column), 1)  # uint8 wraps around, which keeps the parity
            at = until
        found |= np.cumsum(flips[:, :width], axis=1, dtype=np.uint8) % 2 == 1
    return found


def points_of(value: object) -> tuple[float, ...] | None:
    """The flat points of a polygon as a file gives them; None if it is none: an odd count, fewer than three points, or
    values that are no finite numbers.

    >>> points_of([0, 0, 4, 0, 4, 4]), points_of([0, 0, 4])
    ((0.0, 0.0, 4.0, 0.0, 4.0, 4.0), None)
    """
    if not isinstance(value, list | tuple) or len(value) < 6 or len(value) % 2:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    try:
        numbers = tuple(map(float, value))
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
