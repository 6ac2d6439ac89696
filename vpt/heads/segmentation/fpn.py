"""A light decoder on the simple feature pyramid of a patch grid (Semantic FPN, Kirillov et al. 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from vpt.config.heads_segmentation import FpnMaskHead
from vpt.heads.detection.feature_pyramid import SCALES, SimplePyramid
from vpt.utils.errors import UserError


class FpnSegmentation(nn.Module):
    """Scores of grids (B, C, h, w) of several layers, at the scale of the finest level of their pyramid.

    Each level is upsampled to the finest, they are added, and a 1x1 convolution classifies.

    >>> import torch
    >>> FpnSegmentation(32, 2, 3, 16, [2.0, 1.0, 0.5])([torch.zeros(1, 32, 4, 5)] * 2).shape
    torch.Size([1, 3, 8, 10])
    """

    def __init__(
        self, width: int, grids: int, classes: int, channels: int, scales: Sequence[float], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if wrong := [scale for scale in scales if scale not in SCALES]:
            raise UserError(f"head.scales has {wrong[0]:g}; known: {', '.join(map(str, SCALES))}")
        self.pyramid = SimplePyramid(width, grids, channels, sorted(scales, reverse=True))
        self.drop = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """Scores (B, K, s * h, s * w) at the finest scale s."""
        finest, *others = self.pyramid(grids).values()
        total = F.gelu(finest)
        for level in others:
            total = total + F.interpolate(F.gelu(level), finest.shape[2:], mode="bilinear")
        return self.classify(self.drop(total))


def build_fpn(config: FpnMaskHead, width: int, classes: int) -> FpnSegmentation:
    """Create the head of `head=fpn_segmentation`."""
    return FpnSegmentation(width, len(config.taps), classes, config.channels, config.scales, config.dropout)
