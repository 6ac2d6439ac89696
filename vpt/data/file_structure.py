"""Estimates from a file's structure how much work decoding takes apart from its pixels, before a decoder sees it.

A decoder spends time on every chunk, marker and scan. Some formats can contain a great many of them, or ones that
expand a thousandfold, around an image of a few pixels. `examine_structure` counts them in one pass of bounded length.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

PNG_CHUNKS = 1000  # in addition to one for every 512 bytes
PNG_COMPRESSED = 64  # compressed chunks of text or colour profile, each of up to a megabyte
JPEG_SEGMENTS = 1000  # before the first scan
JPEG_FILL = 64 * 1024  # bytes between segments
JPEG_SCANS = 32  # encoders write 18 at most; more scans increase the weight
GIF_BLOCKS = 2000  # in addition to one for every 32 bytes; encoders fill blocks of 255 bytes
BMP_RUNS = 10  # how much slower Pillow decodes run-length encoding, in Python, than plain pixels

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # within a scan, whatever else follows 0xff is data
_WINDOW = 1 << 20
_NO_LENGTH = frozenset({0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})


class Structure(NamedTuple):
    """What a file's structure reveals.

    Args:
        reason: why the file should not be decoded, or "".
        weight: work per pixel, relative to a plain file.
    """

    reason: str = ""
    weight: float = 1.0


def examine_structure(content: bytes) -> Structure:
    """Count the parts of a PNG, JPEG, GIF or BMP file; other bytes pass, because their readers have limits.

    >>> examine_structure(b"not an image")
    Structure(reason='', weight=1.0)
    >>> examine_structure(b"\\x89PNG\\r\\n\\x1a\\n" + b"\\0\\0\\0\\0abCd\\0\\0\\0\\0" * 5000).reason
    'it is a PNG file of more than 1117 chunks'
    """
    for magic, count in _READERS:
        if content.startswith(magic):
            try:
                return count(content)
            except (struct.error, IndexError, ValueError):
                return Structure()  # truncated; the decoder reports it
    return Structure()


def _png(content: bytes) -> Structure:
    limit = PNG_CHUNKS + len(content) // 512
    position, chunks, compressed = 8, 0, 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        position += length + 12
        chunks += 1
        compressed += kind in (b"zTXt", b"iTXt", b"iCCP")
        if chunks > limit:
            return Structure(f"it is a PNG file of more than {limit} chunks")
        if compressed > PNG_COMPRESSED:
            return Structure(f"it is a PNG file with more than {PNG_COMPRESSED} compressed texts and colour profiles")
        if kind == b"IEND":
            break
    return Structure()


def _jpeg(content: bytes) -> Structure:
    position, segments, fill, scans = 2, 0, 0, 0
    # Pillow reads everything before the first scan in Python.
    while scans == 0:
        marker = content.index(b"\xff", position)
        fill += marker - position
        position = marker + 1
        while content[position] == 0xFF and fill <= JPEG_FILL:
            position += 1
            fill += 1
        segments += 1
        if segments > JPEG_SEGMENTS or fill > JPEG_FILL:
            return Structure(f"it is a JPEG file with more than {JPEG_SEGMENTS} segments or with padding between them")
        code = content[position]
        position += 1
        scans += code == 0xDA
        if code not in _NO_LENGTH:
            position += max(2, struct.unpack_from(">H", content, position)[0])
    # Each further scan is a pass over all pixels. Data after the end of the image, such as a video, does not count.
    while (found := _next_marker(content, position)) and found[0] != b"\xff\xd9":
        position, scans, segments = found.end(), scans + (found[0] == b"\xff\xda"), segments + 1
        if segments > 4 * JPEG_SEGMENTS:
            return Structure(f"it is a JPEG file of more than {4 * JPEG_SEGMENTS} segments")
        if found[0][1] not in _NO_LENGTH and position + 2 <= len(content):
            position += max(2, struct.unpack_from(">H", content, position)[0])
    return Structure(weight=max(1.0, scans / JPEG_SCANS))


def _next_marker(content: bytes, position: int) -> re.Match[bytes] | None:
    # In pieces, because no other Python thread runs during a search.
    while position < len(content):
        found = _MARKER.search(content, position, position + _WINDOW)
        if found:
            return found
        position += _WINDOW - 1
    return None


def _gif(content: bytes) -> Structure:
    limit = GIF_BLOCKS + len(content) // 32
    position, blocks, frames = 13, 0, 0
    if content[10] & 0x80:
        position += 3 << ((content[10] & 7) + 1)
    # Up to the start of the second frame: a reader goes that far to find out whether there are several.
    while frames < 2 and blocks <= limit:
        kind = content[position]
        if kind == 0x21:  # an extension
            position += 2
            if content[position - 1] != 0xFE and content[position] == 0:
                position += 1  # Pillow reads on: it treats the first block of all but comments as part of the header
        elif kind == 0x2C:
            frames += 1
            flags = content[position + 9]
            position += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        elif kind == 0x3B:
            break
        else:
            position += 1
            blocks += 1
            continue
        while (length := content[position]) and blocks <= limit:
            position += length + 1
            blocks += 1
        position += 1
        blocks += 1
    return Structure(f"it is a GIF file of more than {limit} blocks" if blocks > limit else "")


def _bmp(content: bytes) -> Structure:
    header, compression = struct.unpack_from("<I", content, 14)[0], struct.unpack_from("<I", content, 30)[0]
    return Structure(weight=BMP_RUNS if header >= 40 and compression in (1, 2) else 1.0)


_READERS: tuple[tuple[bytes, Callable[[bytes], Structure]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"GIF8", _gif),
    (b"BM", _bmp),
)
