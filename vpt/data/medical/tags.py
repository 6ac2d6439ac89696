"""Which DICOM files have the same value of a tag, for `data.group=dicom:PatientID`. Values leave this module as digests
alone, which are kept in memory and not written."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import MutableSequence
from pathlib import Path
from typing import Any

from vpt.data.medical.dicom import PIXELS, started
from vpt.data.medical.files import kind_of, without_slice
from vpt.data.medical.read import slice_size
from vpt.data.medical.slices import Unreadable, named_failures
from vpt.data.pillow_compat import pillow_settings
from vpt.utils.errors import UserError, nearest
from vpt.utils.version import install

_NUMBERS = ("US", "SS", "UL", "SL", "AT")


def tag_number(keyword: str) -> int:
    """The number of a tag of the DICOM standard that has text or numbers.

    Raises:
        UserError: no such tag, or pydicom is not installed.

    >>> hex(tag_number("PatientID"))
    '0x100020'
    """
    try:
        from pydicom.datadict import DicomDictionary
        from pydicom.valuerep import STR_VR
    except ImportError:
        raise UserError(
            f"data.group=dicom:{keyword} needs more packages; install them with: {install('medical')}"
        ) from None
    known = {
        entry[4]: tag
        for tag, entry in DicomDictionary.items()
        if entry[4] and entry[0] in (*STR_VR, *_NUMBERS) and 8 <= tag >> 16 < 0x7FE0
    }
    if keyword not in known:
        raise UserError(
            f"data.group=dicom:{keyword}: DICOM has no tag of text or numbers called {keyword}"
            f"{nearest(keyword, known)}; give its keyword, as in dicom:PatientID"
        )
    return known[keyword]


def value_digest(path: Path, tag: int, max_pixels: int) -> str:
    """A digest of the value that a file has for a tag; "" if it has none. Files of any transfer syntax and character
    set have the same digest for the same value.

    Raises:
        Unreadable: it is not a DICOM file, or it is damaged.
        OSError: the file cannot be opened.
    """
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    if kind_of(path) != "DICOM":
        raise Unreadable("it is not a DICOM file")
    with open(without_slice(path)[0], "rb") as file, pillow_settings(max_pixels), named_failures("DICOM"):
        limited, syntax = started(file)
        source: Any = limited
        wanted: Any = [Tag("SpecificCharacterSet"), Tag(tag)]
        data = read_dataset(
            source,
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            stop_when=lambda at, vr, length: int(at) > tag or int(at) in PIXELS,
            specific_tags=wanted,
        )
        text = _text(data[tag].value) if tag in data else ""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() if text else ""


def usable(path: Path, max_pixels: int) -> bool:
    """Whether the header of an image can be read as a whole, so that only its group is missing."""
    try:
        slice_size(path, max_pixels)
    except (Unreadable, OSError):
        return False
    return True


def _text(value: Any) -> str:
    """A value without what does not count: padding, and the form in which a letter is encoded.

    >>> _text("P7 "), _text(["a", " b"]), _text(None)
    ('P7', 'a\\\\b', '')
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    parts = list(value) if isinstance(value, MutableSequence) else [value]  # the names of persons are iterable
    texts = ("" if part is None else unicodedata.normalize("NFC", str(part)) for part in parts)
    return "\\".join(text.rstrip("^ \0").lstrip() for text in texts)
