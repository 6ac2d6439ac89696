"""Linear segmentation head (DINOv2, Oquab et al. 2023, section 7.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vpt.config.heads_segmentation import LinearMaskHead
from vpt.heads.segmentation.divided_norm import DividedBatchNorm


class LinearSegmentation(nn.Module):
    """Scores (B, K, h, w) of the patches of grids (B, C, h, w), concatenated over channels: batch norm, then a 1x1
    convolution.

    >>> LinearSegmentation(8, 2, 3)([torch.zeros(1, 8, 4, 5)] * 2).shape
    torch.Size([1, 3, 4, 5])
    """

    def __init__(self, width: int, grids: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = DividedBatchNorm(width * grids)
        self.drop = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width * grids, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """Scores (B, K, h, w)."""
        return self.classify(self.drop(self.norm(torch.cat(list(grids), dim=1))))


def build_linear(config: LinearMaskHead, width: int, classes: int) -> LinearSegmentation:
    """Create the head of `head=linear_segmentation`."""
    return LinearSegmentation(width, len(config.taps), classes, config.dropout)
