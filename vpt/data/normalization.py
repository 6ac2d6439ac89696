"""Preprocessing that a backbone expects."""

from __future__ import annotations

from dataclasses import dataclass


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
