"""16-bit colours. Pillow reads them as 8-bit, which leaves 16 levels per channel of a 12-bit image."""

from __future__ import annotations

import numpy as np
from PIL import Image

CHANNELS = {"RGB": 3, "RGBA": 4}


def is_deep(image: Image.Image) -> bool:
    """Whether a file that is opened but not yet loaded has 16-bit colours.

    >>> is_deep(Image.new("RGB", (2, 2)))
    False
    """
    if image.mode not in CHANNELS:
        return False
    for tile in getattr(image, "tile", ()):
        parts = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        # PNG and TIFF name the raw mode, as in "RGB;16B"; PPM its largest value.
        if any(";16" in str(part) or (image.format == "PPM" and part == 65535) for part in parts):
            return True
    return False


def colours(content: bytes, loaded: Image.Image) -> np.ndarray:
    """The 16-bit colours (H, W, 3) of a file, in the layout of the pixels that Pillow decoded.

    They come from OpenCV, if they agree with Pillow's in their upper 8 bits. If not (premultiplied alpha, layouts that
    the two read differently), only Pillow's 8 bits are available, multiplied by 257.

    Args:
        content: the file, which Pillow has decoded completely.
        loaded: the image decoded by Pillow.
    """
    import cv2

    log = cv2.utils.logging
    upper = np.asarray(loaded)[..., :3]
    loud = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)  # Pillow has read the file; OpenCV's warnings about tags do not matter
    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    finally:
        log.setLogLevel(loud)
    if found is not None and found.dtype == np.uint16:
        if found.ndim == 3 and found.shape[2] >= 3:
            found = found[..., 2::-1]  # from blue, green, red
        elif found.ndim == 2:
            found = np.repeat(found[..., None], 3, axis=2)
        if found.shape == upper.shape and all(map(_agree, found, upper)):
            return found
    return upper.astype(np.uint16) * 257


def _agree(found: np.ndarray, upper: np.ndarray) -> bool:
    """Whether the upper 8 bits of a row of 16-bit values equal these values, up to rounding."""
    return bool((np.abs(found // 257 - upper.astype(np.int32)) <= 1).all())
