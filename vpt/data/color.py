"""Conversion of every Pillow mode to 8-bit RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vpt.config.data import LEGACY, Window
from vpt.data.intensity_window import Depth, scale

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # TIFF tags
# Transforms of an array (H, W, 3) for each EXIF orientation; 1 is upright.
_TURNS = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb[::-1].transpose(1, 0, 2),
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: rgb[:, ::-1].transpose(1, 0, 2),
}
_AREA = 1 << 20  # pixels converted at a time: Pillow's copies of a whole photo would take several times its memory


def to_rgb(
    image: Image.Image, window: Window = "auto", colours: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...], Depth | None]:
    """Convert a loaded image to an upright, new array (H, W, 3) uint8; also return the conversions, and the range of
    its values if it is deeper than 8 bits.

    Transparent pixels are composited over white. Values deeper than 8 bits are scaled to 8 bits: with `window`, or, if
    that is not a pair of numbers, with `scale_grey`.

    Args:
        image: its pixels must be loaded.
        window: `data.window`. "auto", which only old runs leave unresolved, means "legacy": TIFF files whose zero is
            white come out inverted, unsigned 32-bit integers are read as signed ones.
        colours: 16-bit values (H, W, 3) of an image that Pillow reads as 8-bit colours.

    Raises:
        ValueError: Pillow has no conversion (LAB), or the image contains NaN.

    >>> pixels, notes, depth = to_rgb(Image.new("CMYK", (2, 1)))
    >>> pixels.shape, notes, depth
    ((1, 2, 3), ('CMYK',), None)
    """
    turn = _TURNS.get(_orientation(image))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    depth = None
    if image.mode in _WIDE:
        notes, depth = _fill_from_grey(image, rgb, window)
    else:
        notes = _fill(image, rgb, colours, window)
        depth = None if colours is None else Depth.of(colours)
    if turn is None:
        return rgb, notes, depth
    return np.ascontiguousarray(turn(rgb)), ("EXIF-rotated", *notes), depth


def grey_values(image: Image.Image, window: Window) -> np.ndarray:
    """The values of a grey image deeper than 8 bits, (H, W), in a dtype that fits them."""
    return _typed(np.asarray(image), image, window)


def _fill(image: Image.Image, rgb: np.ndarray, colours: np.ndarray | None, window: Window) -> tuple[str, ...]:
    """Write the pixels of an image with at most 8 bits per channel, or its deeper colours, into `rgb`."""
    notes = {"P": ["palette"], "PA": ["palette"], "CMYK": ["CMYK"], "1": ["1-bit"]}.get(image.mode, [])
    transparent = image.has_transparency_data
    for rows, columns in _pieces(image.size):
        piece = image.crop((columns.start, rows.start, columns.stop, rows.stop))
        if colours is not None:
            cover = piece.convert("RGBA").getchannel("A") if transparent else None
            piece = Image.fromarray(_scaled(colours[rows, columns], window))
            if cover is not None:
                piece.putalpha(cover)
        if transparent:
            layer = piece.convert("RGBA")
            piece = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        rgb[rows, columns] = np.asarray(piece.convert("RGB"))
    if colours is not None:
        notes = [*notes, "16-bit"]
    return (*notes, "alpha") if transparent else tuple(notes)


def _fill_from_grey(image: Image.Image, rgb: np.ndarray, window: Window) -> tuple[tuple[str, ...], Depth]:
    """Write the pixels of a grey image deeper than 8 bits into `rgb`."""

    def greys() -> Iterator[tuple[slice, slice, np.ndarray]]:
        for rows, columns in _pieces(image.size):
            piece = np.asarray(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
            yield rows, columns, _typed(piece, image, window)

    depths = [Depth.of(grey) for _, _, grey in greys()]
    # Python's min and max would ignore a NaN unless it came first.
    low, high = float(np.min([each.low for each in depths])), float(np.max([each.high for each in depths]))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it contains NaN or infinite values")
    as_it_was = window in LEGACY
    inverted = not as_it_was and _tag(image, _PHOTOMETRIC) == 0
    hole = None if as_it_was else image.info.get("transparency")
    holes = False
    for rows, columns, grey in greys():
        scaled = _scaled(grey, window, low, high)
        scaled = 255 - scaled if inverted else scaled
        if isinstance(hole, int):
            holes |= bool((grey == hole).any())
            scaled = np.where(grey == hole, np.uint8(255), scaled)
        rgb[rows, columns] = scaled[..., None]
    notes = (_depth_in_words(image), "alpha") if holes else (_depth_in_words(image),)
    return notes, Depth(low, high, depths[0].whole)


def _scaled(values: np.ndarray, window: Window, low: float | None = None, high: float | None = None) -> np.ndarray:
    return scale_grey(values, low, high) if isinstance(window, str) else scale(values, window)


def _pieces(size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Row and column slices of pieces of at most `_AREA` pixels that cover an image."""
    width, height = size
    across = min(width, _AREA)
    down = max(1, _AREA // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, min(top + down, height)), slice(left, min(left + across, width))


def scale_grey(grey: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Scale grey values (H, W) deeper than 8 bits to uint8 without clipping.

    Unsigned 16-bit values, and integers that fit into 16 bits, are divided by 257 (so 65535 is white).
    Floats within 0..1 are multiplied by 255, floats within 0..255 kept. Anything else has no standard range:
    its minimum becomes black and its maximum white. `low` and `high` are the range of the whole image, if `grey`
    is a piece of it.

    >>> scale_grey(np.array([[0, 257, 65535]], dtype=np.uint16)).tolist()
    [[0, 1, 255]]
    >>> scale_grey(np.array([[-1000.0, 0.0, 1000.0]])).tolist()
    [[0, 128, 255]]
    """
    if grey.size == 0:
        return grey.astype(np.uint8)
    low = float(grey.min()) if low is None else low
    high = float(grey.max()) if high is None else high
    # float32 cannot represent every 32-bit integer, and squares of range limits overflow it.
    values = grey.astype(np.float64)
    if np.issubdtype(grey.dtype, np.integer) and low >= 0 and high <= 65535:
        values *= 255 / 65535
    elif low >= 0 and high <= 1:
        values *= 255
    elif low < 0 or high > 255:
        values = (values - low) / (high - low) * 255 if high > low else np.full_like(values, 128)
    return np.rint(values).astype(np.uint8)


def _typed(values: np.ndarray, image: Image.Image, window: Window) -> np.ndarray:
    # Pillow has no mode for unsigned 32-bit integers: it stores their bits in signed ones.
    if window not in LEGACY and image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _SAMPLE_FORMAT, 1) == 1:
        return values.view(np.uint32)
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


def _orientation(image: Image.Image) -> int:
    # Read after loading, because Pillow rotates TIFF files itself and then drops the tag. Photos with broken EXIF data
    # and intact pixels are common, so any error of the parser means "upright".
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1
