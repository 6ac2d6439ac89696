"""Decodes any image to an RGB array, or raises a `BadImage` that says what is wrong with it.

Images are decoded with Pillow (torchvision's PNG decoder can be crashed by one flipped byte) and completely (valid
headers prove nothing). Files are never written to.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vpt.config.data import LEGACY, Window
from vpt.data import png16
from vpt.data.channels import has_pages, of_colours, pages
from vpt.data.color import grey_values, to_rgb
from vpt.data.dataset import Item, Record
from vpt.data.file_structure import examine_structure
from vpt.data.intensity_window import Depth
from vpt.data.medical.files import KINDS, kind_of
from vpt.data.medical.numpy_file import MAGIC, NumpyFile
from vpt.data.medical.read import read_slice, slice_size
from vpt.data.medical.slices import Slice, named_failures
from vpt.data.pillow_compat import pillow_settings
from vpt.utils.errors import UserError
from vpt.utils.file_type import HEAD, what_it_is

# An allow-list: Pillow's other readers include one that starts a program (EPS) and some that accept almost any bytes as
# an image (TGA).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI")
_SUFFIXES = "jpg jpeg jpe jfif png apng gif webp bmp dib tif tiff ppm pgm pbm pnm jp2 j2k avif ico qoi"
EXTENSIONS = frozenset("." + suffix for suffix in _SUFFIXES.split()) | KINDS.keys()
MAX_PIXELS = 100_000_000
ARRAY = "NPY"  # the format of .npy files in uploads
_TILE_TAGS = (322, 323)  # TIFF tags: width and height of a tile
# Bytes per pixel during decoding, measured over the whole of `decode`.
_BYTES_A_PIXEL = {"WEBP": 20, "JPEG": 14}
_BYTES_A_BYTE = 28  # of a .npy file
_TILE = 1 << 22  # maximum pixels of a TIFF tile, whatever the size of the image

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray


class BadImage(UserError):
    """An image that cannot be used; `name` identifies it and `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot use the image {name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (self.name, self.reason)


class Decoded(NamedTuple):
    """Pixels (H, W, 3) uint8 RGB, or of `data.channels` channels; the file's format and Pillow mode; the conversions
    applied; whether it is deeper than 8 bits; the range of its values if so and if they were read; and the values
    themselves, if measured."""

    pixels: np.ndarray
    format: str
    mode: str
    notes: tuple[str, ...]
    deep: bool = False
    depth: Depth | None = None
    values: np.ndarray | None = None


class Header(NamedTuple):
    """What a file states about itself before decoding, and the maximum memory that decoding it takes, in bytes."""

    format: str
    width: int
    height: int
    memory: int


def decode(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
    formats: Collection[str] = FORMATS,
    window: Window = "auto",
    channels: int | None = None,
) -> np.ndarray:
    """Decode `source` to a new array (H, W, 3) of uint8 RGB, or (H, W, channels).

    `source` is a path (DICOM, NIfTI and .npy included), the bytes of a file, a binary file object, a Pillow image, or
    an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8. Images are rotated upright (EXIF), and composited over
    white if transparent; of an animation the first frame is used. `formats` are the accepted file formats. Values
    deeper than 8 bits are scaled with `window`, the `data.window` of the run; "auto" means "legacy" (or what the header
    of a DICOM file says), because only settings of versions without `data.window` leave it unresolved.

    Raises:
        BadImage: the image cannot be read, is truncated, has another format, or has more than `max_pixels` pixels. The
            message calls it `name`; default: the path.

    >>> decode(Image.new("L", (4, 3), 7)).shape
    (3, 4, 3)
    >>> decode(b"not an image")
    Traceback (most recent call last):
    ...
    vpt.data.decode.BadImage: cannot use the image <bytes>: it is not an image file in a known format
    """
    return examine(source, max_pixels, name, formats, window, channels=channels).pixels


def examine(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
    formats: Collection[str] = FORMATS,
    window: Window = "auto",
    measure: bool = False,
    channels: int | None = None,
) -> Decoded:
    """Like `decode`, but also return the format, the mode and the conversions; with `measure` also the values of images
    deeper than 8 bits.

    >>> examine(Image.new("1", (2, 2)), name="dots").notes
    ('1-bit',)
    """
    name = _name_of(source) if name is None else name
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, name, channels)
    if isinstance(source, bytes) and ARRAY in formats and source.startswith(MAGIC):
        with _failures_named(name), named_failures("NumPy"):
            found = NumpyFile(io.BytesIO(source), max_pixels).read(0)
            return _from_slice(found, ARRAY, (), window, measure, channels)
    if isinstance(source, str | os.PathLike) and formats is FORMATS and kind_of(source):
        with _failures_named(name):
            return _from_volume(source, max_pixels, window, measure, channels)
    with _failures_named(name), pillow_settings(max_pixels):
        if isinstance(source, Image.Image):
            return _from_pillow(source, max_pixels, name, window, measure, channels=channels)
        with _opened(source, name) as file, closing(_open(file, name, formats)) as image:
            return _from_pillow(image, max_pixels, name, window, measure, file, channels)


def read_header(
    content: bytes, max_pixels: int = MAX_PIXELS, name: str = "<bytes>", formats: Collection[str] = FORMATS
) -> Header:
    """Check an untrusted file as far as possible before any pixel is decoded.

    Raises:
        BadImage: as in `decode`, or if the structure of the file would take more work than that many pixels.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 3)).save(file, "PNG")
    >>> read_header(file.getvalue())[:3]
    ('PNG', 4, 3)
    """
    if ARRAY in formats and content.startswith(MAGIC):
        with _failures_named(name), named_failures("NumPy"):
            return Header(ARRAY, *NumpyFile(io.BytesIO(content), max_pixels).size, _BYTES_A_BYTE * len(content))
    found = examine_structure(content)
    if found.reason:
        raise BadImage(name, found.reason)
    with (
        _failures_named(name),
        pillow_settings(max_pixels),
        _opened(content, name) as file,
        closing(_open(file, name, formats)) as image,
    ):
        _check_geometry(image, max_pixels, name)
        kind, (width, height) = image.format or "", image.size
    if width * height * found.weight > max_pixels:
        raise BadImage(
            name,
            f"decoding its {width}x{height} pixels takes {found.weight:g} times the work of a plain file; "
            "save it as a plain JPEG or PNG file",
        )
    return Header(kind, width, height, width * height * _BYTES_A_PIXEL.get(kind, 10))


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Convert anything that decoding raises to a BadImage."""
    try:
        yield
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(name, "there is not enough memory to decode it") from None
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error, KeyError, ... on bad files.
        raise BadImage(name, _reason(error)) from error


def read(record: Record, max_pixels: int = MAX_PIXELS, measure: bool = False) -> Decoded:
    """Decode the image of a record, with the record's window and name.

    >>> from pathlib import Path
    >>> read(Record("a.png", Path("no/such/a.png"), (0,)))
    Traceback (most recent call last):
    ...
    vpt.data.decode.BadImage: cannot use the image a.png: no such file
    """
    if not isinstance(record.source, Item):
        # The range is measured on the unscaled values, whatever an earlier version did with them.
        window = "full" if measure and record.window in LEGACY else record.window
        return examine(record.source, max_pixels, record.name, FORMATS, window, measure, record.channels)
    dataset, at = record.source
    try:
        with pillow_settings(max_pixels):
            image: Any = dataset[at][0]
    except Exception as error:
        raise BadImage(record.name, _reason(error)) from error
    return examine(image, max_pixels, record.name, FORMATS, record.window, measure, record.channels)


def header_pixels(record: Record, max_pixels: int = MAX_PIXELS) -> int:
    """Number of pixels of the record's image, from the header of its file if there is one. BadImage as in `decode`."""
    if isinstance(record.source, Item):
        return int(np.prod(read(record, max_pixels).pixels.shape[:2]))
    try:
        if kind_of(record.source):
            width, height = slice_size(record.source, max_pixels)
            return width * height
        with (
            pillow_settings(max_pixels),
            _opened(record.source, record.name) as file,
            closing(_open(file, record.name)) as image,
        ):
            _check_size(image.size, max_pixels, record.name)
            return image.width * image.height
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(record.name, _reason(error)) from error


def _open(file: IO[bytes], name: str, formats: Collection[str] = FORMATS) -> Image.Image:
    try:
        return Image.open(file, formats=[each for each in formats if each in _readable()])
    except UnidentifiedImageError:
        if formats is not FORMATS:
            raise BadImage(name, f"it is not an image file of these formats: {', '.join(sorted(formats))}") from None
        file.seek(0)
        raise BadImage(name, what_it_is(file.read(HEAD))) from None


_formats: frozenset[str] = frozenset()


def _readable() -> frozenset[str]:
    # A Pillow built without AVIF, for example, would raise KeyError when asked to try it.
    global _formats
    if not _formats:
        Image.init()
        _formats = frozenset(Image.OPEN)
    return _formats


def _from_pillow(
    image: Image.Image,
    max_pixels: int,
    name: str,
    window: Window,
    measure: bool,
    file: IO[bytes] | None = None,
    channels: int | None = None,
) -> Decoded:
    """Convert a Pillow image, reading 16-bit colours from its file if a window or a measurement needs them."""
    _check_geometry(image, max_pixels, name)
    if channels is not None and has_pages(image, channels):
        return _from_slice(
            pages(image, channels, window, lambda page: _check_geometry(page, max_pixels, name)),
            *("TIFF", (), window, measure, channels),
        )
    file_format, mode = image.format or "array", image.mode
    # Not their number: to count the pages of a TIFF, Pillow reads all of them.
    several = getattr(image, "is_animated", False)
    deep = png16.is_deep(image)  # must be checked before the pixels are loaded
    image.load()
    # Some formats know their true size only after loading.
    _check_size(image.size, max_pixels, name)
    colours = None
    if deep and file is not None and (measure or not isinstance(window, str)):
        file.seek(0)
        colours = png16.colours(file.read(), image)
    pixels, notes, depth = to_rgb(image, window, colours)
    if several:
        notes = (*notes, "first of several frames")
    values = None
    if measure and depth is not None:
        values = grey_values(image, window) if colours is None else colours
    pixels = of_colours(pixels, channels)
    return Decoded(pixels, file_format, mode, notes, deep or depth is not None, depth, values)


def _from_volume(
    path: str | os.PathLike[str], max_pixels: int, window: Window, measure: bool, channels: int | None
) -> Decoded:
    """Convert a slice of a DICOM, NIfTI or .npy file."""
    with named_failures(kind_of(path)):  # scaling reads the header as well
        kind, found, count = read_slice(path, max_pixels)
        several, inverted = ["one of several slices"] * (count > 1), ["white is the lowest value"] * found.inverted
        return _from_slice(found, kind, (*inverted, *several), window, measure, channels)


def _from_slice(
    found: Slice, kind: str, notes: tuple[str, ...], window: Window, measure: bool, channels: int | None
) -> Decoded:
    depth, pixels = found.depth(), found.pixels(window, channels)
    return Decoded(pixels, kind, found.mode, notes, found.deep, depth, found.values if measure and found.deep else None)


def _from_array(array: np.ndarray, max_pixels: int, name: str, channels: int | None) -> Decoded:
    shape = array.shape
    if channels not in (None, 3):
        if array.dtype != np.uint8 or array.ndim != 3 or shape[2] != channels:
            what = f"uint8 of shape (H, W, {channels})"
            raise BadImage(name, f"an array must be {what}, not {array.dtype} of shape {shape}")
        _check_size((shape[1], shape[0]), max_pixels, name)
        return Decoded(np.array(array, order="C"), "array", f"{channels} channels", ())
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise BadImage(
            name,
            f"an array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} of shape {shape}",
        )
    _check_size((shape[1], shape[0]), max_pixels, name)
    if array.ndim == 3 and shape[2] == 4:
        rgb, notes, _ = to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"))
        return Decoded(rgb, "array", "RGBA", notes)
    planes = array.reshape(shape[0], shape[1], -1)
    return Decoded(np.array(np.broadcast_to(planes, (*shape[:2], 3)), order="C"), "array", "RGB", ())


def _check_geometry(image: Image.Image, max_pixels: int, name: str) -> None:
    """Raise BadImage for more pixels than allowed, or for tiles that take far more memory than the image."""
    _check_size(image.size, max_pixels, name)
    tags = getattr(image, "tag_v2", {})
    wide, high = (tags.get(tag, 0) for tag in _TILE_TAGS)
    pixels = image.width * image.height
    if not (isinstance(wide, int) and isinstance(high, int)) or wide * high > max(4 * pixels, _TILE):
        raise BadImage(name, f"its tiles of {wide}x{high} pixels are out of proportion to its {pixels} pixels")


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage(name, f"it is empty ({width}x{height} pixels)")
    if width * height > max_pixels:
        raise BadImage(
            name,
            f"its {width}x{height} pixels are more than data.max_pixels={max_pixels}; "
            "raise that if the image is meant to be so large",
        )


def _opened(source: Any, name: str) -> IO[bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif isinstance(source, str | os.PathLike):
        status = os.stat(source)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise BadImage(name, "it is a pipe, a socket or a device")  # reading it might block forever
        if status.st_size == 0:
            raise BadImage(name, "the file is empty")
        return open(source, "rb")
    elif hasattr(source, "read"):
        content = source.read()
        if not isinstance(content, bytes):
            raise BadImage(name, "the file must be opened in binary mode")
    else:
        raise BadImage(name, f"{type(source).__name__} is not a path, bytes, file, Pillow image or array")
    if not content:
        raise BadImage(name, "the file is empty")
    return io.BytesIO(content)


def _name_of(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) if isinstance(os.fspath(source), str) else repr(source)
    file_name = getattr(source, "name", None) or getattr(source, "filename", None)
    return file_name if isinstance(file_name, str) else f"<{type(source).__name__}>"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        place = Path(error.filename or "")
        if place.is_symlink():
            return f"it is a broken link to {place.readlink()}"
        return "no such file"
    if isinstance(error, Image.DecompressionBombError):
        # Pillow's own check, at twice data.max_pixels, runs before ours.
        return "it has far more pixels than data.max_pixels allows, as a decompression bomb would"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return text or type(error).__name__
