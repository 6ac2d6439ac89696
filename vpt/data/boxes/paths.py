"""Paths and sizes that annotation files name, checked before they are used."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from PIL import Image

from vpt.data.pillow import pillow_settings
from vpt.errors import UserError


def inside(root: Path, name: str, file: Path) -> Path:
    """The path `name` below `root`.

    Raises:
        UserError: an absolute path or one that leaves the root; annotation files of others are not to be trusted.

    >>> inside(Path("images"), "a/b.jpg", Path("x.json")).as_posix()
    'images/a/b.jpg'
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\\0" in name:
        raise UserError(f"{file} names the image '{name[:100]}', which does not lie below {root}")
    return root / name


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
