"""Classes of pixels from scores, without all scores at the size of the image: 254 classes of a large photo are many
gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.data.segmentation.dataset import IGNORE

AT_ONCE = 1 << 22  # scores at the size of the image


class Pixels(NamedTuple):
    """The class (H, W) uint8 of each pixel, its probability (H, W) float32, and the cross-entropy (H, W) of the true
    classes, zero where they are ignored; None without them."""

    labels: Tensor
    probability: Tensor
    loss: Tensor | None


class Tile(NamedTuple):
    """A part of an image: its rows and columns, and its scores (K, h, w) float32."""

    place: tuple[slice, slice]
    scores: Tensor

    def best(self) -> tuple[Tensor, Tensor]:
        """The best class (h, w) of each pixel, and its probability."""
        value, index = self.scores.max(0)
        return index, (value - self.scores.logsumexp(0)).exp_()


def tiles(scores: Tensor, size: tuple[int, int], at_once: int = AT_ONCE) -> Iterator[Tile]:
    """Scores (K, h, w) resized bilinearly to height and width, in parts of at most `at_once` scores, or of one pixel.

    >>> [tile.scores.tolist() for tile in tiles(torch.tensor([[[0.0, 2.0]]]), (1, 4), at_once=2)]
    [[[[0.0, 0.5]]], [[[1.5, 2.0]]]]
    """
    height, width = size
    if len(scores) * height * width <= at_once:
        whole = scores.float()
        if whole.shape[1:] != size:
            whole = F.interpolate(whole[None], size, mode="bilinear", align_corners=False)[0]
        yield Tile((slice(0, height), slice(0, width)), whole)
        return
    across = max(1, min(width, at_once // len(scores)))
    down = max(1, at_once // (len(scores) * across))
    for top in range(0, height, down):
        rows = slice(top, min(top + down, height))
        above, below, weight = _neighbours(scores.shape[1], height, rows, scores.device)
        band = scores[:, above].float().lerp_(scores[:, below].float(), weight[:, None])
        for left in range(0, width, across):
            columns = slice(left, min(left + across, width))
            before, after, weight = _neighbours(scores.shape[2], width, columns, scores.device)
            yield Tile((rows, columns), band[..., before].lerp_(band[..., after], weight))


def _neighbours(inner: int, outer: int, part: slice, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two places among `inner` between which each place of a part of `outer` lies, and the weight of the second;
    as `torch.nn.functional.interpolate` computes them, in float32."""
    at = torch.arange(part.start, part.stop, dtype=torch.float32, device=device)
    source = ((at + 0.5) * (inner / outer) - 0.5).clamp_(min=0)
    first = source.long().clamp_(max=inner - 1)
    return first, (first + 1).clamp_(max=inner - 1), (source - first).clamp_(max=1)


def read_out(scores: Tensor, size: tuple[int, int], wanted: Tensor | None = None, at_once: int = AT_ONCE) -> Pixels:
    """The best class of each pixel of scores (K, h, w) that are resized to height and width.

    Args:
        scores: scores of the classes.
        size: height and width of the result.
        wanted: true classes (H, W) and `IGNORE`.
        at_once: number of scores of that size in memory; see `tiles`.

    >>> found = read_out(torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]]), (1, 2))
    >>> found.labels.tolist(), round(float(found.probability[0, 1]), 3)
    ([[1, 0]], 0.881)
    """
    labels = torch.empty(size, dtype=torch.uint8, device=scores.device)
    probability = torch.empty(size, device=scores.device)
    loss = None if wanted is None else torch.empty(size, device=scores.device)
    for tile in tiles(scores, size, at_once):
        labels[tile.place], probability[tile.place] = tile.best()
        if wanted is not None and loss is not None:
            truth = wanted[tile.place].long()[None]
            loss[tile.place] = F.cross_entropy(tile.scores[None], truth, ignore_index=IGNORE, reduction="none")[0]
    return Pixels(labels, probability, loss)
