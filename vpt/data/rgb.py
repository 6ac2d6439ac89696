"""Every Pillow mode as an array of 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# What an EXIF orientation asks for; 1 is upright. Each turns an array (H, W, 3).
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


def to_rgb(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of a loaded image, upright, as a new array (H, W, 3) uint8, and words for what was converted.

    Transparent pixels are laid over white. 16-bit and wider greys are scaled to 8 bits (see `scale_grey`).

    Raises:
        ValueError: Pillow knows no conversion (LAB), or the image holds NaN.

    >>> pixels, notes = to_rgb(Image.new("CMYK", (2, 1)))
    >>> pixels.shape, notes
    ((1, 2, 3), ('CMYK',))
    """
    turn = _TURNS.get(_orientation(image))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    notes = _fill_from_grey(image, rgb) if image.mode in _WIDE else _fill(image, rgb)
    if turn is None:
        return rgb, notes
    return np.ascontiguousarray(turn(rgb)), ("EXIF-rotated", *notes)


def _fill(image: Image.Image, rgb: np.ndarray) -> tuple[str, ...]:
    """Write the pixels of an image with 8 bits a channel, or fewer, into `rgb`."""
    notes = {"P": ["palette"], "PA": ["palette"], "CMYK": ["CMYK"], "1": ["1-bit"]}.get(image.mode, [])
    transparent = image.has_transparency_data
    for rows, columns in _pieces(image.size):
        piece = image.crop((columns.start, rows.start, columns.stop, rows.stop))
        if transparent:
            layer = piece.convert("RGBA")
            piece = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        rgb[rows, columns] = np.asarray(piece.convert("RGB"))
    return (*notes, "alpha") if transparent else tuple(notes)


def _fill_from_grey(image: Image.Image, rgb: np.ndarray) -> tuple[str, ...]:
    """Write the pixels of a grey image of more than 8 bits into `rgb`."""

    def greys() -> Iterator[tuple[slice, slice, np.ndarray]]:
        for rows, columns in _pieces(image.size):
            yield rows, columns, np.asarray(image.crop((columns.start, rows.start, columns.stop, rows.stop)))

    ranges = [(float(grey.min()), float(grey.max())) for _, _, grey in greys()]
    # Python's min and max would let a NaN through unless it came first.
    low, high = float(np.min([low for low, _ in ranges])), float(np.max([high for _, high in ranges]))
    for rows, columns, grey in greys():
        rgb[rows, columns] = scale_grey(grey, low, high)[..., None]
    return ({"I": "32-bit integer", "F": "floating point"}.get(image.mode, "16-bit"),)


def _pieces(size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pieces of at most `_AREA` pixels that make up an image."""
    width, height = size
    across = min(width, _AREA)
    down = max(1, _AREA // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, min(top + down, height)), slice(left, min(left + across, width))


def scale_grey(grey: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Scale greys (H, W) of any type wider than 8 bits to uint8 without clipping.

    Unsigned 16-bit values, and integers that fit into 16 bits, are divided by 257 (so 65535 is white).
    Floats within 0..1 are multiplied by 255, floats within 0..255 kept. Anything else has no agreed range:
    its minimum becomes black and its maximum white. `low` and `high` are the range of the whole image, where `grey`
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
