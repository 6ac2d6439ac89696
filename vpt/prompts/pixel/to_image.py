"""Pixel prompts as images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vpt.data.normalization import denormalise
from vpt.prompts.pixel.prompt import PixelPrompts


@torch.no_grad()
def prompt_picture(prompt: PixelPrompts) -> np.ndarray:
    """The prompt as an image (side, side, 4) uint8 RGBA, transparent where there is no prompt.

    A prompt with a sigmoid is shown unchanged. Other prompts are changes of pixels: grey is zero, and the largest
    change is black or white.

    >>> from vpt.config import PixelPrompt
    >>> prompt_picture(PixelPrompts(PixelPrompt(size=2), side=8)).shape
    (8, 8, 4)
    """
    prompt = prompt.eval()
    canvas, mask = (each.float().cpu() for each in prompt.canvas(1))
    if prompt.config.squash == "sigmoid":
        shown = canvas.sigmoid()
    else:
        largest = float((canvas * mask).abs().max())
        shown = 0.5 + canvas / (2 * largest) if largest > 0 else torch.full_like(canvas, 0.5)
    image = torch.cat([shown * mask, mask[None]])
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def pixels_of(images: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """Convert normalised images (B, 3, S, S) back to pixels (B, S, S, 3) uint8; values outside of 0..1 are clipped.

    >>> half = torch.full((3, 1, 1), 0.5)
    >>> int(pixels_of(torch.ones(1, 3, 2, 2), half, half).min())
    255
    """
    pixels = denormalise(images, mean, std).clamp(0, 1).float().cpu()
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
