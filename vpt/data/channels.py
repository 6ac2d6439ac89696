"""Images of `data.channels` channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from vpt.config.data import Window
from vpt.data.color import grey_values
from vpt.data.medical.slices import Slice, Unreadable

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_PHOTOMETRIC = 262  # TIFF tag; 0: zero is white


def has_pages(image: Image.Image, channels: int | None) -> bool:
    """Whether the channels of an image are the pages of its file."""
    if channels in (None, 1) or image.format != "TIFF" or image.mode not in ("1", "L", *_WIDE):
        return False
    return channels != 3 or getattr(image, "is_animated", False)


def pages(image: Image.Image, channels: int, window: Window, check: Callable[[Image.Image], None]) -> Slice:
    """The pages of a TIFF file as channels (H, W, N).

    Args:
        image: an open file.
        channels: N.
        window: `data.window`.
        check: refuses a page before it is decoded.

    Raises:
        Unreadable: another number of pages, or pages that are not grey or differ in size or depth.
    """
    planes: list[np.ndarray] = []
    for page in range(channels + 1):
        try:
            image.seek(page)
        except EOFError:
            break
        if page == channels:
            raise Unreadable(f"it has more than {channels} pages, which are its channels (data.channels={channels})")
        check(image)
        if image.mode not in ("1", "L", *_WIDE):
            raise Unreadable("its pages are not all grey, so that they are no channels")
        image.load()
        plane = grey_values(image, window) if image.mode in _WIDE else np.asarray(image.convert("L"))
        if planes and (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            raise Unreadable("its pages differ in size or depth, so that they are no channels")
        planes.append(np.array(plane))
    if len(planes) != channels:
        raise Unreadable(f"it has {len(planes)} of {channels} pages, which are its channels (data.channels={channels})")
    values, deep = np.stack(planes, -1), planes[0].dtype != np.uint8
    inverted = deep and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return Slice(values, f"{channels} pages", deep, inverted)


def of_colours(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """The channels of an image (H, W, 3) that was read in colours, or in grey, which was repeated.

    Raises:
        Unreadable: it has another number of channels.

    >>> of_colours(np.zeros((2, 2, 3), np.uint8), 1).shape
    (2, 2, 1)
    """
    if channels in (None, 3):
        return pixels
    grey = bool((pixels == pixels[..., :1]).all())
    if channels == 1 and grey:
        return np.ascontiguousarray(pixels[..., :1])
    raise Unreadable(_wrong_number(1 if grey else 3, channels))


def _wrong_number(found: int, channels: int | None) -> str:
    """Why an image with `found` channels cannot be used."""
    return (
        f"it has {found} channel{'s' * (found != 1)}, not data.channels={channels}; save all of them as an array "
        f"(H, W, {channels}) in a .npy file, or as a TIFF file of {channels} grey pages"
    )


def in_threes(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The result of `change`, a function of images (H, W, 3), for an image (H, W, C), three channels at a time.

    >>> in_threes(np.zeros((4, 4, 5), np.uint8), lambda image: image[:2]).shape
    (2, 4, 5)
    """
    count = image.shape[2]
    if count == 3:
        return change(image)
    places = [[min(at + more, count - 1) for more in range(3)] for at in range(0, count, 3)]
    return np.concatenate([change(np.ascontiguousarray(image[..., each])) for each in places], 2)[..., :count]
