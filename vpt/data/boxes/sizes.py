"""Sizes of images from their headers, where annotations are shares of them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from PIL import Image

from vpt.data.pillow import pillow_settings


def upright_size(path: Path, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of an image as it is seen, from its header; None where it cannot be read.

    >>> upright_size(Path("no/such.jpg"), 100) is None
    True
    """
    try:
        with pillow_settings(max_pixels), closing(Image.open(path)) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (height, width) if turned else (width, height)
    except Exception:
        return None  # `vpt data check` tells why
