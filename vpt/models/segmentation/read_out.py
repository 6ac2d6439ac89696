"""Classes of pixels from scores, without all scores at the size of the image: 254 classes of a large photo are many
gigabytes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.data.segmentation.dataset import IGNORE

_AT_ONCE = 1 << 25  # scores at the size of the image


class Pixels(NamedTuple):
    """The class (H, W) uint8 of each pixel, its probability (H, W) float32, and the cross-entropy (H, W) of the true
    classes, zero where they are ignored; None without them."""

    labels: Tensor
    probability: Tensor
    loss: Tensor | None


def read_out(scores: Tensor, size: tuple[int, int], wanted: Tensor | None = None, at_once: int = _AT_ONCE) -> Pixels:
    """The best class of each pixel of scores (K, h, w) that are resized to height and width.

    Args:
        scores: scores of the classes.
        size: height and width of the result.
        wanted: true classes (H, W) and `IGNORE`.
        at_once: number of scores of that size in memory; classes are read in several parts where they are more.

    >>> found = read_out(torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]]), (1, 2))
    >>> found.labels.tolist(), round(float(found.probability[0, 1]), 3)
    ([[1, 0]], 0.881)
    """
    step = max(1, at_once // (size[0] * size[1]))
    best, total, mine = None, None, None
    labels = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for start in range(0, len(scores), step):
        part = scores[start : start + step].float()
        if part.shape[1:] != size:
            part = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
        value, index = part.max(0)
        better = torch.ones_like(value, dtype=torch.bool) if best is None else value > best
        labels[better] = (index[better] + start).to(torch.uint8)
        best = value if best is None else torch.maximum(best, value)
        total = part.logsumexp(0) if total is None else torch.logaddexp(total, part.logsumexp(0))
        if wanted is not None:
            inside = (wanted >= start) & (wanted < start + len(part)) & (wanted != IGNORE)
            at = (wanted.long() - start).where(inside, 0)
            found = part.gather(0, at[None])[0] * inside
            mine = found if mine is None else mine + found
    assert best is not None
    assert total is not None
    loss = None if wanted is None or mine is None else (total - mine) * (wanted != IGNORE)
    return Pixels(labels, (best - total).exp(), loss)
