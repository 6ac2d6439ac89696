"""Every Pillow mode as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from vpt.config.data import LEGACY, Window
from vpt.data.window import scale

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # tags of TIFF
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


def to_rgb(
    image: Image.Image, window: Window = "auto", colours: np.ndarray | None = None
) -> tuple[Image.Image, tuple[str, ...], np.ndarray | None]:
    """A loaded image upright in mode RGB, words for what had to be converted, and its values before, where it is
    deeper than 8 bits: (H, W) or (H, W, 3), as they are stored.

    Transparent pixels are laid over white. Greys deeper than 8 bits are scaled to 8 bits: by `window`, or, where that
    is no pair of numbers, by `scale_grey`.

    Args:
        image: its pixels are loaded.
        window: `data.window`. "auto", which no run but an old one leaves undecided, is "legacy": TIFF files whose zero
            is white come out inverted, unsigned 32-bit integers are read as signed ones.
        colours: 16-bit values (H, W, 3) of an image that Pillow reads as 8-bit colours.

    Raises:
        ValueError: Pillow knows no conversion (LAB), or the image holds NaN.

    >>> to_rgb(Image.new("CMYK", (2, 1)))[0].mode, to_rgb(Image.new("CMYK", (2, 1)))[1]
    ('RGB', ('CMYK',))
    """
    notes: list[str] = []
    turn = _TURNS.get(_orientation(image))
    if turn is not None:  # the first of Pillow's turns is number 0
        notes.append("EXIF-rotated")
    mode = image.mode
    if mode in (*_WIDE, "I", "F"):
        notes.append(_depth_in_words(image))
        values = _grey_values(image, window)
        grey = _scaled(values, window)
        if window not in LEGACY and _tag(image, _PHOTOMETRIC) == 0:
            grey = 255 - grey
        hole = image.info.get("transparency")
        if window not in LEGACY and isinstance(hole, int) and (values == hole).any():
            notes.append("alpha")
            grey = np.where(values == hole, np.uint8(255), grey)
        return _turned(Image.fromarray(grey), turn).convert("RGB"), tuple(notes), values
    if mode in ("P", "PA"):
        notes.append("palette")
    if mode in ("CMYK", "1"):
        notes.append({"CMYK": "CMYK", "1": "1-bit"}[mode])
    see_through = image.has_transparency_data
    if colours is not None:
        notes.append("16-bit")
        deep = Image.fromarray(_scaled(colours, window))
        if see_through:
            deep.putalpha(image.convert("RGBA").getchannel("A"))
        image = deep
    if see_through:
        notes.append("alpha")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return _turned(image, turn).convert("RGB"), tuple(notes), colours


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
    # float32 cannot hold every 32-bit integer, and squares of range limits overflow it.
    values = grey.astype(np.float64)
    if np.issubdtype(grey.dtype, np.integer) and low >= 0 and high <= 65535:
        values *= 255 / 65535
    elif low >= 0 and high <= 1:
        values *= 255
    elif low < 0 or high > 255:
        values = (values - low) / (high - low) * 255 if high > low else np.full_like(values, 128)
    return np.rint(values).astype(np.uint8)


def _scaled(values: np.ndarray, window: Window) -> np.ndarray:
    if values.size and not np.isfinite([float(values.min()), float(values.max())]).all():
        raise ValueError("it holds NaN or infinite values")
    return scale_grey(values) if isinstance(window, str) else scale(values, window)


def _grey_values(image: Image.Image, window: Window) -> np.ndarray:
    values = np.asarray(image)
    # Pillow has no mode for unsigned 32-bit integers: it keeps their bits in signed ones.
    if window not in LEGACY and image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _SAMPLE_FORMAT, 1) == 1:
        values = values.view(np.uint32)
    return values


def _depth_in_words(image: Image.Image) -> str:
    if image.mode == "F":
        return "floating point"
    if image.mode == "I" and image.format not in ("PPM", "PNG") and _tag(image, _BITS) != 16:
        return "32-bit integer"
    return "16-bit"


def _tag(image: Image.Image, number: int, default: int | None = None) -> Any:
    """A tag of a TIFF file, the first of several values; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return value[0] if isinstance(value, tuple) and value else value


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    # Read after loading, for Pillow turns TIFF files itself and then drops the tag. Photos with broken EXIF data
    # and sound pixels are common, so whatever the parser raises means "upright".
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1
