"""Images embedded in the page as data URIs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vpt.utils.image_grid import rgb_of
from vpt.utils.plotting import data_uri

SMALL = 64  # images up to this side length are stored losslessly


def small(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, C) in three channels, shrunk to at most `side` pixels a side if it is larger.

    >>> small(np.zeros((300, 100, 3), np.uint8), 60).shape
    (60, 20, 3)
    """
    pixels = rgb_of(pixels)
    high, wide = pixels.shape[:2]
    scale = side / max(high, wide)
    if scale >= 1:
        return pixels
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def photo_uri(pixels: np.ndarray) -> str:
    """A photo (H, W, 3) uint8 as a JPEG, or as a PNG if it is tiny."""
    tiny = max(pixels.shape[:2]) <= SMALL
    return png_uri(pixels) if tiny else data_uri(pixels, "JPEG", quality=80)


def png_uri(pixels: np.ndarray) -> str:
    """An image (H, W), (H, W, 3) or (H, W, 4) uint8 as a PNG.

    >>> png_uri(np.zeros((1, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    return data_uri(pixels, optimize=True)


def heat_uri(heat: np.ndarray) -> str:
    """A map (h, w) of 0 to 1 as a half-transparent overlay, from dark blue to yellow."""
    from matplotlib import colormaps

    colours = (colormaps["inferno"](heat) * 255).round().astype(np.uint8)
    colours[..., 3] = np.clip(120 + 90 * heat, 0, 255).astype(np.uint8)
    return png_uri(colours)
