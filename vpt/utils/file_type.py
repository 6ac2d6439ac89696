"""Identifies unsupported files by their first bytes, for error messages."""

from __future__ import annotations

HEAD = 132  # number of bytes needed
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def what_it_is(head: bytes) -> str:
    """Why a file cannot be read, from its first `HEAD` bytes.

    >>> what_it_is(b"MM\\0*\\0\\0")
    'it is a TIFF of a kind that Pillow does not read, as of 64-bit floats; save it with 8, 16 or 32 bits'
    >>> what_it_is(b"hello")
    'it is not an image file in a known format'
    """
    if head[:4] in _TIFF:
        return "it is a TIFF of a kind that Pillow does not read, as of 64-bit floats; save it with 8, 16 or 32 bits"
    if head[128:132] == b"DICM":
        return "it is a DICOM file; name it .dcm and give its path"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "it is a HEIC photo; save it as JPEG"
    if head[:64].startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS in place of the file; fetch it with: git lfs pull"
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or head.lstrip()[:5].lower() == b"<html":
        return "it is a web page, as a failed download leaves it; download it again"
    return "it is not an image file in a known format"
