"""A hint at larger images, if many boxes are small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vpt.data.dataset import Record

PART = 0.25  # fraction of boxes that may be small
MOST = 4  # how many times larger than now a suggested size may be


def hint(records: Sequence[Record], short: int, long: int, patch: int) -> str:
    """A hint at `head.size` if more than a quarter of the boxes are smaller than a patch.

    Args:
        records: with boxes.
        short: short side of resized images, in pixels.
        long: their maximum long side.
        patch: side of a patch.
    """
    from vpt.data.detection.transforms import scale_for

    sides = []
    for record in records:
        boxes: Any = getattr(record, "boxes", ())
        width, height = getattr(record, "size", (0, 0))
        if len(boxes) and width and height:
            scale = scale_for(width, height, short, long)
            sides += [scale * math.sqrt(max(0.0, (x2 - x1) * (y2 - y1))) for x1, y1, x2, y2 in boxes]
    if not sides or np.mean(np.array(sides) < patch) <= PART:
        return ""
    typical = float(np.quantile(sides, PART))
    wanted = min(MOST, patch / max(typical, 1e-6)) * short
    size = min(4096, math.ceil(wanted / patch) * patch)
    return (
        f"{np.mean(np.array(sides) < patch):.0%} of the training boxes are smaller than a patch of {patch} px at this "
        f"size (median {np.median(sides):.0f} px): such objects are easily missed; try head.size={size}, which takes "
        f"{(size / short) ** 2:.1f} times the time and memory"
    )
