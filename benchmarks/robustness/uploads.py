"""Hostile images: small files that claim much, and large ones around a picture of a few pixels."""

from __future__ import annotations

import io
import itertools
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000")


def uploads(bulk: int = 18_000_000, side: int = 6300, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and contents, without end: every kind of attack once, then good files with damaged bytes.

    Args:
        bulk: size of those that are large, in bytes; a server takes requests of 20 MB.
        side: of pictures with many pixels; a server takes 40 megapixels.
        seed: of the damage.
    """
    for name, claim in SMALL.items():
        yield name, claim(side)
    for name, fill in LARGE.items():
        yield name, fill(bulk)
    chance = random.Random(seed)
    good = [picture(kind) for kind in KINDS]
    for number in itertools.count():
        yield f"damaged {number}", damaged(good[number % len(good)], chance)


def picture(kind: str, width: int = 48, height: int = 40, **options: object) -> bytes:
    """A good file."""
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(file, kind, **options)
    return file.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file cut short, or with some bytes changed; half of the changes hit its head, where the structure is."""
    data = bytearray(content)
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
        return bytes(data)
    reach = min(len(data), 64 if chance.random() < 0.5 else len(data))
    for _ in range(chance.choice((1, 1, 4, 16))):
        data[chance.randrange(reach)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(data)


def plain(width: int, height: int, kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A picture of one colour, whose file is far smaller than its pixels."""
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind, **options)
    return file.getvalue()


# PNG


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, interlace: int = 0) -> bytes:
    """A PNG file with more chunks before its pixels, which need not be as many as it claims."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace))
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + 3 * 8) * 8)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND")


def _filled(one: bytes, size: int) -> bytes:
    return one * (size // len(one))


MEGABYTE = zlib.compress(bytes(1_000_000), 9)  # of which a thousand bytes are left


def _png_texts(size: int) -> bytes:
    return png(8, 8, _filled(chunk(b"zTXt", b"\0\0" + MEGABYTE), size))


def _png_wide_texts() -> bytes:
    wide = zlib.compress("\U0001f600".encode() * 250_000, 9)
    return png(8, 8, *(chunk(b"iTXt", b"key%d\0\1\0\0\0" % number + wide) for number in range(400)))


# JPEG


def _jpeg(head: bytes, scans: int = 0, **options: object) -> bytes:
    """A JPEG file with more segments before its first and more scans after its last."""
    content = plain(64, 64, "JPEG", **options)
    start = content.rindex(b"\xff\xda")
    return content[:2] + head + content[2:-2] + content[start:-2] * scans + content[-2:]


def _jpeg_scans(size: int) -> bytes:
    """Some hundred thousand passes over four megapixels."""
    content = plain(2048, 2048, "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + _filled(scan, size) + content[-2:]


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def _exif(entries: int) -> bytes:
    """An EXIF block whose entries all claim the same large data."""
    rows = b"".join(struct.pack("<HHII", 0x8000 + number, 7, 30_000, 8) for number in range(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + rows


# GIF, BMP, TIFF, WebP


def _gif(before: bytes = b"", frame: bytes = b"\x02\x84\x51", width: int = 8, height: int = 8, left: int = 0) -> bytes:
    """A GIF file with blocks before its frame, which may lie outside of its screen."""
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    return head + before + b"," + struct.pack("<HHHH", left, 0, 8, 8) + b"\0\x02" + frame + b"\0;"


def _bmp_runs(width: int, height: int) -> bytes:
    """Each row ends after its first pixel, and is filled up byte by byte."""
    data = b"\1\1\0\0" * height
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + head + bytes(range(256)) * 4 + data


def _directory(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + rows + struct.pack("<I", following)


def _tiff_tile(side: int = 32768) -> bytes:
    """Eight pixels in a tile of a thousand million."""
    shape = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1)]
    tile = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 4)]
    return b"II*\0" + struct.pack("<I", 8) + _directory([*shape, *tile]) + b"\x80\0\0\0"


def _tiff_pages(size: int) -> bytes:
    """Many pages, none of which is read."""
    shape = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    page = len(_directory(shape))
    count = size // page
    pages = (_directory(shape, 8 + page * number if number < count else 0) for number in range(1, count + 1))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def _webp_empty(width: int, height: int) -> bytes:
    """An animation with a large canvas, and a frame of one pixel."""
    frame = plain(1, 1, "WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(16) + frame
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


SMALL: dict[str, Callable[[int], bytes]] = {
    "nothing": lambda side: b"",
    "text": lambda side: b"this is no image",
    "zeros": lambda side: bytes(5000),
    "zip": lambda side: b"PK\x03\x04" + bytes(100),
    "pickle": lambda side: b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "svg with a script": lambda side: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "postscript": lambda side: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "cut short": lambda side: picture("PNG")[:200],
    "PNG that claims ten thousand megapixels": lambda side: png(100_000, 100_000),
    "PNG that claims many pixels": lambda side: png(side, side),
    "PNG of no pixels": lambda side: png(0, 8),
    "PNG of many pixels": lambda side: plain(side, side, "PNG"),
    "PNG of many pixels with alpha": lambda side: plain(side, side, "PNG", "RGBA"),
    "PNG of many pixels, 16 bits": lambda side: plain(side, side, "PNG", "I;16"),
    "PNG of many pixels in one row": lambda side: plain(side * side, 1, "PNG", "L"),
    "PNG with an animation of two thousand million frames": lambda side: png(
        8, 8, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    ),
    "PNG with a frame larger than its canvas": lambda side: png(
        8,
        8,
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 65535, 65535, 0, 0, 1, 1, 0, 0)),
    ),
    "PNG with texts of four bytes a letter": lambda side: _png_wide_texts(),
    "PNG with a chunk longer than the file": lambda side: png(8, 8, struct.pack(">I", 2**31 - 1) + b"tEXt"),
    "PNG interlaced, many pixels claimed": lambda side: png(side, side, interlace=1),
    "JPEG of many pixels": lambda side: plain(side, side, "JPEG"),
    "JPEG of many pixels, progressive": lambda side: plain(side, side, "JPEG", progressive=True),
    "JPEG of many pixels in four colours": lambda side: plain(side, side, "JPEG", "CMYK", progressive=True),
    "JPEG with EXIF data that claims itself": lambda side: _jpeg(_segment(0xE1, _exif(5000))),
    "JPEG with an index of four thousand million pictures": lambda side: _jpeg(
        _segment(0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + _directory([(0xB001, 4, 1, 2**32 - 1)]))
    ),
    "JPEG with a segment of negative length": lambda side: _jpeg(b"\xff\xe0\0\0\xff\xe0\0\1"),
    "GIF with a frame outside of its screen": lambda side: _gif(left=60_000),
    "GIF of 4000 megapixels": lambda side: _gif(width=65535, height=65535),
    "GIF of many pixels": lambda side: plain(side, side, "GIF", "L"),
    "WebP of many pixels": lambda side: plain(side, side, "WEBP", lossless=True),
    "WebP of many pixels with alpha": lambda side: plain(side, side, "WEBP", "RGBA", lossless=True),
    "WebP of 268 megapixels": lambda side: _webp_empty(16384, 16384),
    "WebP of one pixel on many pixels": lambda side: _webp_empty(side, side),
    "WebP canvas of 2^48 pixels": lambda side: _webp_empty(2**24, 2**24),
    "BMP of many pixels in runs": lambda side: _bmp_runs(side, side),
    "BMP of one row in runs": lambda side: _bmp_runs(side * side, 1),
    "BMP with a header of four thousand megabytes": lambda side: b"BM" + bytes(12) + b"\xff\xff\xff\xff" + bytes(40),
    "TIFF with a tile of a thousand megapixels": lambda side: _tiff_tile(),
    "TIFF with a directory that follows itself": lambda side: (
        b"II*\0" + struct.pack("<I", 8) + _directory([(256, 4, 1, 8)], 8)
    ),
}
LARGE: dict[str, Callable[[int], bytes]] = {
    "PNG of empty chunks": lambda size: png(8, 8, _filled(chunk(b"abCd"), size)),
    "PNG of empty data": lambda size: png(8, 8, _filled(chunk(b"IDAT"), size)),
    "PNG with texts that grow a thousandfold": _png_texts,
    "PNG with colour profiles that grow a thousandfold": lambda size: png(
        8, 8, _filled(chunk(b"iCCP", b"name\0\0" + MEGABYTE), size)
    ),
    "PNG with texts behind its pixels": lambda size: (
        png(8, 8)[:-12] + _filled(chunk(b"zTXt", b"\0\0" + MEGABYTE), size) + chunk(b"IEND")
    ),
    "PNG with a long text": lambda size: png(8, 8, chunk(b"tEXt", b"key\0" + b"a" * size)),
    "JPEG of empty comments": lambda size: _jpeg(_filled(_segment(0xFE, b""), size)),
    "JPEG of padding": lambda size: _jpeg(b"\xff" * size),
    "JPEG of zeros between segments": lambda size: _jpeg(bytes(size)),
    "JPEG of EXIF segments": lambda size: _jpeg(_filled(_segment(0xE1, b"Exif\0\0" + bytes(60_000)), size)),
    "JPEG of small EXIF segments": lambda size: _jpeg(_filled(_segment(0xE1, b"Exif\0\0"), size)),
    "JPEG of Photoshop blocks": lambda size: _jpeg(
        _filled(_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5000), size)
    ),
    "JPEG of a hundred thousand scans": _jpeg_scans,
    "JPEG with a film behind it": lambda size: plain(64, 64, "JPEG") + random.Random(0).randbytes(size),
    "GIF of comments of one byte": lambda size: _gif(b"!\xfe" + b"\1a" * (size // 2) + b"\0"),
    "GIF of comments of two bytes": lambda size: _gif(b"!\xfe" + b"\2ab" * (size // 3) + b"\0"),
    "GIF of extensions": lambda size: _gif(b"!\xf9\4\0\0\0\0\0" * (size // 8)),
    "GIF of a block that is no end": lambda size: _gif(b"!\1\0" + b"\1;" * (size // 2) + b"\0"),
    "GIF of data in blocks of one byte": lambda size: _gif(frame=b"\1a" * (size // 2)),
    "TIFF of many pages": _tiff_pages,
    "noise": lambda size: random.Random(1).randbytes(size),
    "noise that begins as JPEG": lambda size: b"\xff\xd8\xff\xe0" + random.Random(2).randbytes(size),
    "noise that begins as PNG": lambda size: b"\x89PNG\r\n\x1a\n" + random.Random(3).randbytes(size),
    "noise that begins as WebP": lambda size: (
        struct.pack("<4sI8sI", b"RIFF", size, b"WEBPVP8L", size - 12) + b"/" + random.Random(4).randbytes(size)
    ),
}
