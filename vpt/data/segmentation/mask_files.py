"""Masks in image files: class indices, a palette, or a colour for each class."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vpt.data.decode import MAX_PIXELS, BadImage
from vpt.data.file_structure import examine_structure
from vpt.data.pillow_compat import pillow_settings
from vpt.data.segmentation.dataset import UNKNOWN, Size

# Formats without loss; a JPEG would blend the values of neighbouring classes.
FORMATS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
_DEEPEST = 65_536  # values of 16-bit masks
_SPARE = 1 << 20  # bytes of a file that may be no pixels


@dataclass(frozen=True)
class ValueTable:
    """Maps values, or colours, of mask files to classes.

    Args:
        values: value of the file -> class index, or `IGNORE`.
        colors: red << 16 | green << 8 | blue -> class index, or `IGNORE`; if there are any, values are not used.

    >>> ValueTable({0: 0, 7: 1}).classes(np.array([[0, 7, 9]])).tolist()
    [[0, 1, 254]]
    >>> ValueTable(colors={0xFF0000: 1}).classes(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).tolist()
    [[1, 254]]
    """

    values: Mapping[int, int] | None = None
    colors: Mapping[int, int] | None = None

    def classes(self, raw: np.ndarray) -> np.ndarray:
        """Classes (H, W) uint8 of raw values (H, W), or of colours (H, W, 3) uint8."""
        if raw.ndim == 3:
            parts = raw.astype(np.int64)
            raw = parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
            known = self.colors or {}
            keys = np.array(sorted(known), dtype=np.int64)
            if not len(keys):
                return np.full(raw.shape, UNKNOWN, np.uint8)
            found = np.array([known[key] for key in keys.tolist()], np.uint8)
            places = np.searchsorted(keys, raw).clip(0, len(keys) - 1)
            return np.where(keys[places] == raw, found[places], UNKNOWN).astype(np.uint8)
        table = np.full(_DEEPEST, UNKNOWN, np.uint8)
        for value, label in (self.values or {}).items():
            if 0 <= value < _DEEPEST:
                table[value] = label
        return table[raw]


@dataclass(frozen=True)
class MaskFile:
    """A mask in an image file."""

    file: Path
    table: ValueTable

    def size(self, max_pixels: int) -> Size | None:
        """Width and height, from the header of the file."""
        return mask_size(self.file, max_pixels)

    def read(self, size: Size) -> np.ndarray:
        """The mask (H, W) uint8."""
        return self.table.classes(read_raw(self.file, size, bool(self.table.colors)))

    def unknown(self, size: Size) -> list[str]:
        """The values, or colours such as "(255, 0, 0)", that are no class."""
        raw = read_raw(self.file, size, bool(self.table.colors))
        strange = np.unique(raw[self.table.classes(raw) == UNKNOWN], axis=0)
        return [str(tuple(value) if isinstance(value, list) else value) for value in strange.tolist()]


def mask_size(path: Path, max_pixels: int = MAX_PIXELS) -> Size:
    """Width and height of a mask from its header.

    Raises:
        BadImage: it cannot be read, or has more than `max_pixels` pixels.

    >>> mask_size(Path("no/such.png"))
    Traceback (most recent call last):
    ...
    vpt.data.decode.BadImage: cannot use the image no/such.png: the mask does not exist
    """
    with _failures_named(path), pillow_settings(max_pixels), closing(Image.open(path, formats=_known())) as image:
        if image.width * image.height > max_pixels:
            raise BadImage(str(path), f"the mask has more than data.max_pixels={max_pixels} pixels")
        return image.size


def read_raw(path: Path, size: Size, colors: bool = False) -> np.ndarray:
    """Values (H, W) of a mask file as stored: grey values, or the indices of a palette.

    Args:
        path: a file in a format without loss.
        size: width and height that it must have; any other size is refused before decoding.
        colors: return colours (H, W, 3) uint8 instead.

    Raises:
        BadImage: it cannot be read, has another size, is in colour although values are expected, or has values that
            are no class indices, such as fractions.
    """
    with _failures_named(path), pillow_settings(size[0] * size[1]):
        if path.stat().st_size > _SPARE + 16 * size[0] * size[1]:
            raise BadImage(str(path), f"the mask is a file of far more bytes than {_by(size)} pixels need")
        content = path.read_bytes()
        if reason := examine_structure(content).reason:
            raise BadImage(str(path), reason)
        with closing(Image.open(io.BytesIO(content), formats=_known())) as image:
            if image.size != size:
                raise BadImage(str(path), f"the mask has {_by(image.size)} pixels and its image {_by(size)}")
            image.load()
            if colors:
                return np.asarray(image.convert("RGB"))
            values = np.asarray(image)
    if values.ndim == 3:
        grey = values[..., :1] if values.shape[2] < 3 else values[..., :3]
        if (grey != grey[..., :1]).any():
            raise BadImage(str(path), "the mask is in colour; give its classes and colours with data.mask_classes")
        values = grey[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= _DEEPEST:
        raise BadImage(str(path), f"the mask has values of {values.dtype} that are no class indices")
    return values


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _known() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """Convert anything that decoding a mask raises to a BadImage that names the file."""
    try:
        yield
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(str(path), "the mask does not exist") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on bad files
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else ""
        text = reason or f"it is damaged, or no file of these formats: {', '.join(FORMATS)}"
        raise BadImage(str(path), f"the mask cannot be read: {text}") from None
