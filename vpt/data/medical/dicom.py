"""Frames of DICOM files. Only the elements that determine pixels are read."""

from __future__ import annotations

import io
import struct
from typing import IO, Any

import numpy as np

from vpt.data.color import scale_grey
from vpt.data.medical.slices import Slice, Unreadable, Volume, check_size

HEADER_BYTES = 1 << 23  # of elements that are parsed; frames of long series take about 3 KB each
MOST_ITEMS = 100_000  # of sequences; each becomes an object of about a kilobyte
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # the tag of an item, little and big endian
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_VALUES = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept")
_WINDOW = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_PALETTE = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(f"{name}Descriptor" for name in _PALETTE),
    *(f"{start}{name}Data" for name in _PALETTE for start in ("", "Segmented")),
)
_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")


class DicomFile(Volume):
    """The frames of a DICOM file."""

    def __init__(self, file: IO[bytes], max_pixels: int) -> None:
        from pydicom.dataset import Dataset
        from pydicom.filereader import read_dataset
        from pydicom.pixels.utils import as_pixel_options
        from pydicom.tag import Tag

        self._file, syntax = started(file)
        source: Any = self._file
        tags = [Tag(name) for name in (*_TAGS, *_VALUES, *_WINDOW, *_GROUPS)]
        self._data: Any = read_dataset(
            source,
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            stop_when=lambda tag, vr, length: int(tag) in PIXELS,
            specific_tags=tags,  # type: ignore[arg-type]
        )
        self._syntax, self._empty = syntax, Dataset
        if "Rows" not in self._data or "Columns" not in self._data or not self._find_pixels():
            raise Unreadable("it is a DICOM file without an image")
        options = as_pixel_options(self._data, pixel_keyword=self._keyword, transfer_syntax_uid=syntax)
        options.update(pixel_vr=self._vr)
        self._options = options
        self._colour = str(options.get("photometric_interpretation", "")).strip()
        if self._colour not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
            raise Unreadable("its photometric interpretation is not one of grey, RGB, YBR and palette colour")
        self.size, self.count = (int(options["columns"]), int(options["rows"])), int(options["number_of_frames"])
        check_size(*self.size, self.count, max_pixels)
        samples = 3 if self._colour in _COLOUR else 1
        if options.get("samples_per_pixel") != samples:
            raise Unreadable("its number of samples a pixel contradicts its photometric interpretation")
        self._bits = int(options.get("bits_stored", 64))
        self._check_length(samples)

    def read(self, index: int) -> Slice:
        """The frame at an index from 0."""
        values = self._frame(index)
        if self._colour == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            values = apply_color_lut(values, self._data)
            return Slice(_eight_bits(values, 8 * values.dtype.itemsize), self._colour, False)
        if self._colour in _COLOUR:
            return Slice(_eight_bits(values, self._bits), self._colour, False)
        header = self._header_of(index)
        padding = self._padding(values)
        values = _modality(values, header)
        if padding is not None:
            rest = values[~padding]
            values[padding] = rest.max() if self._colour == "MONOCHROME1" else rest.min()
        windowed = "VOILUTSequence" in header or ("WindowCenter" in header and "WindowWidth" in header)
        plain = values.dtype.kind == "u" or (values.dtype.kind in "ib" and values.min() >= 0)
        inverted = self._colour == "MONOCHROME1"
        if not windowed and plain and self._bits <= 8 and values.max() < 256:
            return Slice(_eight_bits(values, self._bits), self._colour, False, inverted)
        return Slice(values, self._colour, True, inverted, (lambda each: _windowed(each, header)) if windowed else None)

    def _find_pixels(self) -> bool:
        """Read the tag of the pixels, at which the header ended, up to their first byte."""
        start = self._file.read(8)
        if len(start) < 8:
            return False
        end = "<" if self._syntax.is_little_endian else ">"
        group, element, length = struct.unpack(f"{end}HHL", start)
        self._vr: str | None = None
        if not self._syntax.is_implicit_VR:
            vr = struct.unpack(f"{end}HH2sH", start)[2]
            if vr not in (b"OB", b"OW", b"OF", b"OD", b"UN"):
                raise Unreadable("its pixels have an unknown type")
            self._vr, length = vr.decode(), struct.unpack(f"{end}L", self._file.read(4))[0]
        names = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
        self._keyword = names[(group << 16) | element]
        self._length, self._start = length, self._file.tell()
        return True

    def _check_length(self, samples: int) -> None:
        """Refuse files shorter than their header states."""
        left = self._file.size - self._start
        if self._syntax.is_encapsulated:
            if 8 * self.count > left:
                raise Unreadable("the file is truncated")
            return
        width, height = self.size
        bits = width * height * samples * int(self._options["bits_allocated"])
        bits = bits * 2 // 3 if self._colour == "YBR_FULL_422" else bits
        if min(self._length, left) < self.count * bits // 8:
            raise Unreadable("the file is truncated")

    def _frame(self, index: int) -> np.ndarray:
        """Pixels of a frame as stored, (H, W) or (H, W, 3), YBR converted to RGB."""
        from pydicom.pixels import get_decoder

        try:
            decoder = get_decoder(self._syntax)
        except NotImplementedError:
            raise Unreadable(f"its transfer syntax ({self._syntax.name}) is not that of images") from None
        if not decoder.is_available:
            raise Unreadable(
                f"its transfer syntax ({self._syntax.name}) needs a decoder; install one with: pip install pylibjpeg "
                "pylibjpeg-libjpeg pylibjpeg-openjpeg, or python-gdcm, or convert the file with: gdcmconv --raw"
            )
        source: Any = self._file
        source.unlimited()
        self._file.seek(self._start)
        if self._syntax.is_encapsulated:
            self._check_codestream(index)
        values, _ = decoder.as_array(source, index=index, validate=True, raw=False, **self._options)
        width, height = self.size
        if values.shape[:2] != (height, width):
            raise Unreadable("its frame has another size than its header states")
        return values

    def _check_codestream(self, index: int) -> None:
        """Refuse a frame whose compressed image states a larger size than the header, before a decoder allocates it."""
        from pydicom.encaps import get_frame

        source: Any = self._file
        offsets = self._options.get("extended_offsets")
        frame = get_frame(source, index, number_of_frames=self.count, extended_offsets=offsets)
        self._file.seek(self._start)
        stated = codestream_size(frame)
        if stated is not None and stated != self.size:
            raise Unreadable("its frame has another size than its header states")

    def _header_of(self, index: int) -> Any:
        """Elements of a frame that determine its values and window: its own, else the shared ones."""
        found = self._empty()
        for name in (*_VALUES, *_WINDOW):
            if name in self._data:
                found[name] = self._data[name]
        for groups, at in zip(reversed(_GROUPS), (0, index), strict=True):
            items = self._data[groups].value if groups in self._data else []
            for item in items[at : at + 1]:
                for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                    for inner in (item[macro].value if macro in item else [])[:1]:
                        found.update({inner[name].tag: inner[name] for name in (*_VALUES, *_WINDOW) if name in inner})
        empty = [element.tag for element in found if element.value in (None, "", b"")]
        for tag in empty:
            del found[tag]
        return found

    def _padding(self, values: np.ndarray) -> np.ndarray | None:
        """Which pixels are outside of the picture; None if none or all are."""
        first = self._data.get("PixelPaddingValue")
        if first is None:
            return None
        last = self._data.get("PixelPaddingRangeLimit", first)
        low, high = sorted((int(first), int(last)))
        padding = (values >= low) & (values <= high)
        return padding if padding.any() and not padding.all() else None


def started(file: IO[bytes]) -> tuple[_Limited, Any]:
    """A DICOM file up to its elements, which are read within limits, and its transfer syntax."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import UID

    limited = _Limited(file)
    source: Any = limited
    if file.read(132)[128:] != b"DICM":
        raise Unreadable("it is not a DICOM file, or one without a header (DICM); rewrite it with dcmconv +F")
    file.seek(0)
    read_preamble(source, force=False)
    syntax = UID(str(_read_file_meta_info(source).get("TransferSyntaxUID", "")))
    if syntax in _DEFLATED:
        raise Unreadable("its transfer syntax is deflated, which is not read; convert it with: dcmconv +te")
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise Unreadable("its transfer syntax is unknown; convert it with: gdcmconv --raw")
    return limited, syntax


def _modality(values: np.ndarray, header: Any) -> np.ndarray:
    """Values in their unit, such as Hounsfield units. Integers stay integers if slope and intercept are integers."""
    if "ModalityLUTSequence" in header:
        from pydicom.pixels import apply_modality_lut

        return np.array(apply_modality_lut(values, header))
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    if (slope, intercept) == (1, 0):
        return np.array(values)
    whole = values.dtype.kind in "ui" and slope.is_integer() and intercept.is_integer()
    if whole and values.dtype.itemsize <= 4 and max(abs(slope), abs(intercept)) < 2**30:
        return values.astype(np.int64) * int(slope) + int(intercept)
    return values.astype(np.float64) * slope + intercept


def _windowed(values: np.ndarray, header: Any) -> np.ndarray:
    """Scale values to uint8 with the first look-up table or window of a header."""
    if "VOILUTSequence" in header:
        from pydicom.pixels import apply_voi

        table = header.VOILUTSequence[0]
        shown = apply_voi(np.rint(values).astype(np.int64), header, index=0)
        return _eight_bits(shown, int(table.LUTDescriptor[2]))
    centre, width = (float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction", "LINEAR")).strip().upper()
    if not (np.isfinite(centre) and np.isfinite(width)) or width <= 0 or (function == "LINEAR" and width < 1):
        return scale_grey(values)
    values = values.astype(np.float64)
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shown = (values - centre) / width + 0.5
    elif width == 1:  # a threshold
        shown = (values > centre - 0.5).astype(np.float64)
    else:
        shown = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8 and values.dtype == np.uint8:
        return values
    return np.rint(np.clip(values.astype(np.float64) / (2**bits - 1), 0, 1) * 255).astype(np.uint8)


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 image states; None for others, as of run-length encoding.

    >>> codestream_size(b"\\0" * 64) is None
    True
    """
    start = frame.find(b"\xff\x4f\xff\x51", 0, 256)
    if start >= 0:
        wide, high, left, top = struct.unpack_from(">4L", frame, start + 8)
        return wide - left, high - top
    if frame[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 < len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)) or marker == 0xFFF7:
            high, wide = struct.unpack_from(">HH", frame, position + 5)
            return wide, high
        position += 1 if marker == 0xFFFF else 2 + length
    raise Unreadable("the file is truncated")


class _Limited(io.RawIOBase):
    """A file of which no more than `HEADER_BYTES` and `MOST_ITEMS` can be read before `unlimited` is called, and never
    more than there is: lengths that a header states are not allocated."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._limited, self._bytes, self._items = file, True, 0, 0
        self.size = file.seek(0, 2)
        file.seek(0)

    def unlimited(self) -> None:
        """Reading what is not parsed: pixels."""
        self._limited = False

    def read(self, size: int = -1) -> bytes:
        there = max(0, self.size - self._file.tell())
        size = there if size is None or size < 0 else min(size, there)
        content = self._file.read(size)
        if not self._limited:
            return content
        self._bytes += size
        self._items += sum(map(content.count, _ITEMS))
        if self._bytes > HEADER_BYTES or self._items > MOST_ITEMS:
            raise Unreadable(f"its header has more than {HEADER_BYTES >> 20} MB or {MOST_ITEMS} items of sequences")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
