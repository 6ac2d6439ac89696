"""Makes the image files that tests need, ordinary, odd and broken."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth colour picture (H, W, 3) uint8, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    """Write a picture where `path` says, making folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int], suffix: str = ".png", seed: int = 0) -> Path:
    """Write `counts[name]` different pictures into root/name/0.png, 1.png, ..."""
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save(root / name / f"{number}{suffix}", photo(24, 32, seed + 1000 * place + number))
    return root


def encoded(kind: str, pixels: np.ndarray | None = None) -> bytes:
    """The bytes of a picture in a format such as "JPEG"."""
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(photo() if pixels is None else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 30000x30000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that look like images and are none, by what is wrong with them."""
    whole = encoded("JPEG", photo(200, 200))
    contents = {
        "empty": b"",
        "text": b"this is no image",
        "truncated": whole[: len(whole) // 2],
        "no_header": whole[200:],
        "bomb": bomb(),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _written(folder / f"{name}.jpg", content) for name, content in contents.items()}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
