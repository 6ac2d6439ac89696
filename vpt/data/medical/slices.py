"""What the readers of DICOM, NIfTI and NumPy files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from vpt.config.data import Window
from vpt.data.color import scale_grey
from vpt.data.intensity_window import Depth, scale
from vpt.utils.version import install

MOST_SLICES = 10_000
_LARGEST = 1e38  # as of `data.window`


class Unreadable(ValueError):
    """A file that cannot be used. The message has no text of the file."""


class Slice(NamedTuple):
    """One image of a file.

    Args:
        values: (H, W) or (H, W, C), of any type of numbers.
        mode: what the values are, as in "MONOCHROME2".
        deep: whether they need a window; if not, they are uint8.
        inverted: whether the lowest value is white.
        display: how the file's header says to scale the values to uint8, if it does.
    """

    values: np.ndarray
    mode: str
    deep: bool
    inverted: bool = False
    display: Callable[[np.ndarray], np.ndarray] | None = None

    def depth(self) -> Depth | None:
        """Range of the values of a slice that needs a window.

        Raises:
            Unreadable: values that are not finite, or too large.
        """
        if not self.deep:
            return None
        low, high, whole, _ = Depth.of(self.values)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Unreadable("it contains NaN or infinite values")
        if max(-low, high) > _LARGEST:
            raise Unreadable(f"it contains values above {_LARGEST:g}")
        return Depth(low, high, whole, self.display is not None)

    def pixels(self, window: Window, channels: int | None = None) -> np.ndarray:
        """The pixels (H, W, 3) uint8, with one channel repeated three times, or those of another number of channels.

        Args:
            channels: as in `data.channels`.
            window: as in `data.window`; all but numbers and "full" mean what the header says, if it says anything.
        """
        if not self.deep:
            scaled = self.values
        elif not isinstance(window, str):
            scaled = scale(self.values, window)
        elif window == "full" or self.display is None:
            scaled = scale_grey(self.values)
        else:
            scaled = self.display(self.values)
        scaled = 255 - scaled if self.inverted else scaled
        planes = scaled if scaled.ndim == 3 else scaled[..., None]
        wanted = (1, 3) if channels in (None, 3) else (channels,)
        if planes.shape[2] not in wanted:
            found = f"{planes.shape[2]} channel{'s' * (planes.shape[2] != 1)}"
            if channels is None:
                raise Unreadable(
                    f"it has {found}; set data.channels={planes.shape[2]}, or save the three that you need"
                )
            raise Unreadable(f"it has {found}, not data.channels={channels}")
        if channels not in (None, 3):
            return np.ascontiguousarray(planes)
        return np.array(np.broadcast_to(planes, (*planes.shape[:2], 3)), order="C")


class Volume(ABC):
    """An open file with one or more slices of one size.

    Args:
        size: width and height in pixels.
        count: number of slices.
    """

    size: tuple[int, int]
    count: int

    @abstractmethod
    def read(self, index: int) -> Slice:
        """The slice at an index from 0.

        Raises:
            Unreadable: the slice cannot be read.
        """


def check_size(width: int, height: int, count: int, max_pixels: int) -> None:
    """Raise Unreadable for dimensions that are not positive, or larger than allowed.

    >>> check_size(512, 512, 20_000, 10**8)
    Traceback (most recent call last):
    ...
    vpt.data.medical.slices.Unreadable: it states 20000 slices; at most 10000 are read
    """
    if width < 1 or height < 1 or count < 1:
        raise Unreadable(f"it is empty ({width}x{height} pixels, {count} slices)")
    if width * height > max_pixels:
        raise Unreadable(
            f"its {width}x{height} pixels are more than data.max_pixels={max_pixels}; "
            "raise that if the image is meant to be so large"
        )
    if count > MOST_SLICES:
        raise Unreadable(f"it states {count} slices; at most {MOST_SLICES} are read")


@contextmanager
def named_failures(kind: str) -> Iterator[None]:
    """Replace whatever a library raises, whose text may be from the file, by one sentence of ours."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except ImportError:
        raise Unreadable(f"reading {kind} files needs more packages; install them with: {install('medical')}") from None
    except OSError as error:
        if error.errno is None:
            raise Unreadable(f"it is a damaged {kind} file") from None
        raise
    except Exception:
        raise Unreadable(f"it is a damaged {kind} file") from None
