"""Every Pillow mode as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
# What an EXIF orientation asks for; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a loaded image upright in mode RGB, and words for what had to be converted.

    Transparent pixels are laid over white. 16-bit and wider greys are scaled to 8 bits (see `scale_grey`).

    Raises:
        ValueError: Pillow knows no conversion (LAB), or the image holds NaN.

    >>> to_rgb(Image.new("CMYK", (2, 1)))[0].mode, to_rgb(Image.new("CMYK", (2, 1)))[1]
    ('RGB', ('CMYK',))
    """
    notes: list[str] = []
    turn = _TURNS.get(_orientation(image))
    if turn is not None:  # the first of Pillow's turns is number 0
        image = image.transpose(turn)
        notes.append("EXIF-rotated")
    mode = image.mode
    if mode in (*_WIDE, "I", "F"):
        notes.append({"I": "32-bit integer", "F": "floating point"}.get(mode, "16-bit"))
        return Image.fromarray(scale_grey(np.asarray(image))).convert("RGB"), tuple(notes)
    if mode in ("P", "PA"):
        notes.append("palette")
    if mode in ("CMYK", "1"):
        notes.append({"CMYK": "CMYK", "1": "1-bit"}[mode])
    if image.has_transparency_data:
        notes.append("alpha")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB"), tuple(notes)


def scale_grey(grey: np.ndarray) -> np.ndarray:
    """Scale greys (H, W) of any type wider than 8 bits to uint8 without clipping.

    Unsigned 16-bit values, and integers that fit into 16 bits, are divided by 257 (so 65535 is white).
    Floats within 0..1 are multiplied by 255, floats within 0..255 kept. Anything else has no agreed range:
    its minimum becomes black and its maximum white.

    >>> scale_grey(np.array([[0, 257, 65535]], dtype=np.uint16)).tolist()
    [[0, 1, 255]]
    >>> scale_grey(np.array([[-1000.0, 0.0, 1000.0]])).tolist()
    [[0, 128, 255]]
    """
    if grey.size == 0:
        return grey.astype(np.uint8)
    low, high = float(grey.min()), float(grey.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds NaN or infinite values")
    # float32 cannot hold every 32-bit integer, and squares of range limits overflow it.
    values = grey.astype(np.float64)
    if np.issubdtype(grey.dtype, np.integer) and low >= 0 and high <= 65535:
        values *= 255 / 65535
    elif low >= 0 and high <= 1:
        values *= 255
    elif low < 0 or high > 255:
        values = (values - low) / (high - low) * 255 if high > low else np.full_like(values, 128)
    return np.rint(values).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    # Read after loading, for Pillow turns TIFF files itself and then drops the tag. Photos with broken EXIF data
    # and sound pixels are common, so whatever the parser raises means "upright".
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1
