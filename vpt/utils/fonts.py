"""The font of pictures."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


@lru_cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Matplotlib's DejaVu Sans, in pixels; Pillow's own font lacks all letters but those of English.

    >>> font(12).getbbox("ö") != font(12).getbbox("Ж")
    True
    """
    found = importlib.util.find_spec("matplotlib")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        file = Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(file, size)
    return ImageFont.load_default(size)
