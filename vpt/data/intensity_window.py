"""Scaling images deeper than 8 bits to 8 bits, with one window for all images of a data set, so that a grey value means
the same in every image. The window is stored with the run, so that it is the same in training and inference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vpt.config.data import Window

BITS = (8, 10, 12, 14, 16)  # bit depths of sensors; the smallest that fits all values is used


class Depth(NamedTuple):
    """Range of the values of an image deeper than 8 bits: minimum, maximum, whether they are integers, and whether the
    header of the file states a window for them."""

    low: float
    high: float
    whole: bool
    header: bool = False

    @classmethod
    def of(cls, values: np.ndarray) -> Depth:
        """The range of an image's values, which must be finite.

        >>> Depth.of(np.array([[3, 4000]], np.uint16))
        Depth(low=3.0, high=4000.0, whole=True, header=False)
        """
        return cls(float(values.min()), float(values.max()), bool(np.issubdtype(values.dtype, np.integer)))


def window_of(depths: Iterable[Depth]) -> Window:
    """The window for images with these ranges, "full" if there are none, "header" if all files state their own.

    Unsigned integers of at most 16 bits: from 0 to the largest number of 8, 10, 12, 14 or 16 bits, whichever is the
    smallest that fits all values. Floats within 0..1 or 0..255 keep that range. Anything else has no standard range:
    from the minimum over all images to the maximum.

    >>> window_of([Depth(10, 900, True), Depth(0, 4000, True)])
    (0.0, 4095.0)
    >>> window_of([Depth(-1024.0, 3071.0, True)]), window_of([Depth(0.25, 0.5, False)]), window_of([])
    ((-1024.0, 3071.0), (0.0, 1.0), 'full')
    """
    depths = list(depths)
    if not depths:
        return "full"
    if all(depth.header for depth in depths):
        return "header"
    low, high = min(depth.low for depth in depths), max(depth.high for depth in depths)
    ranges = [2.0**bits - 1 for bits in BITS] if all(depth.whole for depth in depths) else [1.0, 255.0]
    if low >= 0:
        for top in ranges:
            if high <= top:
                return 0.0, top
    return (low, high) if low < high else (low, low + 1)


def scale(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Scale values of any type to uint8: the lower end of the window becomes 0, the upper end 255; others are clipped.

    >>> scale(np.array([[0, 2048, 4095, 65535]], np.uint16), (0, 4095)).tolist()
    [[0, 128, 255, 255]]
    """
    low, high = window
    # float32 cannot represent every 32-bit integer.
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def shown(window: Window) -> str:
    """A window as written on the command line.

    >>> shown((0.0, 4095.0)), shown("full")
    ('[0, 4095]', 'full')
    """
    return window if isinstance(window, str) else f"[{window[0]:.15g}, {window[1]:.15g}]"
