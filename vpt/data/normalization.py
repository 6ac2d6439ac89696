"""Preprocessing that a backbone expects."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Square size in pixels, per-channel mean and std on the 0..1 scale, interpolation and centre-crop fraction.

    >>> Preprocess(size=224).crop_pct
    1.0
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"  # "nearest", "bilinear" or "bicubic"
    crop_pct: float = 1.0


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (..., 3, H, W) minus mean over std, each (3, 1, 1) and on the scale of the pixels, 0..1 or 0..255.

    >>> import torch
    >>> float(normalise(torch.full((3, 1, 1), 255), torch.full((3, 1, 1), 127.5), torch.full((3, 1, 1), 127.5))[0])
    1.0
    """
    return (images - mean).div_(std)


def denormalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`: images (..., 3, H, W) on the scale of mean and std."""
    return images * std + mean
