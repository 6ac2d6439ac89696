"""Simple feature pyramid on a single patch grid (ViTDet, Li et al. 2022, section 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)


class SimplePyramid(nn.Module):
    """Maps patch grids to feature maps of several strides with the same number of channels.

    Grids of several layers are concatenated over channels and projected to one. Each level is computed from this grid
    by strided transposed convolutions or max pooling, and ends with a 1x1 and a 3x3 convolution, each with a norm.

    Args:
        width: number of channels of a grid.
        grids: number of grids.
        channels: number of channels of every level.
        scales: levels as multiples of the grid's resolution; a level of 0.25 is pooled from that of 0.5.

    >>> maps = SimplePyramid(32, 1, 16, [2.0, 1.0, 0.5])([torch.zeros(1, 32, 6, 4)])
    >>> [tuple(level.shape) for level in maps.values()]
    [(1, 16, 12, 8), (1, 16, 6, 4), (1, 16, 3, 2)]
    """

    def __init__(self, width: int, grids: int, channels: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.join = nn.Conv2d(width * grids, width, 1) if grids > 1 else nn.Identity()
        self.levels = nn.ModuleList(_level(width, channels, scale) for scale in scales)
        self.out_channels = channels

    def forward(self, grids: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        """Levels (B, channels, h, w) by name, the finest first, from grids (B, C, h, w)."""
        joined = self.join(torch.cat(list(grids), dim=1))
        return OrderedDict((str(number), level(joined)) for number, level in enumerate(self.levels))


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    steps: list[nn.Module] = []
    if scale == 4.0:
        steps += [nn.ConvTranspose2d(width, width // 2, 2, 2), LayerNorm2d(width // 2), nn.GELU()]
        steps += [nn.ConvTranspose2d(width // 2, width // 4, 2, 2)]
        width //= 4
    elif scale == 2.0:
        steps += [nn.ConvTranspose2d(width, width // 2, 2, 2)]
        width //= 2
    elif scale in (0.5, 0.25):
        # Ceiling, so that a grid of a single patch is not lost.
        steps += [nn.MaxPool2d(2, 2, ceil_mode=True)] * (1 if scale == 0.5 else 2)
    steps += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels)]
    steps += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*steps)
