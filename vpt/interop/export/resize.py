"""Pillow's resizing in traceable operators."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

# Halves are rounded up, as in Pillow; the small offset makes runtimes agree about them.
HALF = 0.5 + 1e-3


def resized(pixels: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Resize images (B, 3, H, W) with values from 0 to 255; returns floats with integer values.

    As in Pillow: along rows and then along columns, with rounding after each.

    Args:
        size: height and width.

    >>> import torch
    >>> resized(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), (1, 4), "bilinear").flatten().tolist()
    [0.0, 64.0, 191.0, 255.0]
    """
    pixels = pixels.float()
    for new in ((pixels.shape[2], size[1]), size):
        if new != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=new, mode=mode, antialias=True)
            pixels = (pixels + HALF).floor().clamp(0, 255)
    return pixels
