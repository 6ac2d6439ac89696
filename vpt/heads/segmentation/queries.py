"""A small head of mask queries (Mask2Former, Cheng et al. 2022; on a plain ViT: EoMT, Kerssies et al. 2025).

Semantic inference as there: the score of a class at a pixel is the sum over queries of the query's probability of the
class times its mask's probability at the pixel. The head is trained through that sum, without matching queries to
objects, because the task has one answer a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vpt.config.heads_segmentation import QueryMaskHead

_TINY = 1e-6


class _Layer(nn.Module):
    """Queries attend to the patches, then to each other, then pass an MLP; each step with a norm before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Queries (B, Q, D) after attending to patches (B, N, D)."""
        queries = queries + self.cross(self.norms[0](queries), patches, patches, need_weights=False)[0]
        normed = self.norms[1](queries)
        queries = queries + self.self_attention(normed, normed, normed, need_weights=False)[0]
        return queries + self.mlp(self.norms[2](queries))


class QuerySegmentation(nn.Module):
    """Log scores (B, K, 2h, 2w) of grids (B, C, h, w); their softmax over classes is the normalised sum.

    >>> QuerySegmentation(8, 1, 3, queries=5, layers=1, channels=16)([torch.zeros(1, 8, 4, 5)]).shape
    torch.Size([1, 3, 8, 10])
    """

    def __init__(self, width: int, grids: int, classes: int, queries: int, layers: int, channels: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.join = nn.Sequential(nn.Conv2d(width * grids, channels, 1), nn.GroupNorm(1, channels))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.layers = nn.ModuleList(_Layer(channels, channels // 16) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, classes + 1)  # the last: no class
        self.embed = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        """Log scores (B, K, 2h, 2w)."""
        classes, masks = self.predict(grids)
        scores = torch.einsum("bqk,bqhw->bkhw", classes.float().softmax(-1)[..., :-1], masks.float().sigmoid())
        return scores.clamp(min=_TINY).log()

    def predict(self, grids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores (B, Q, K + 1), of which the last means no class, and mask scores (B, Q, 2h, 2w)."""
        grid = self.join(torch.cat(list(grids), dim=1))
        patches = grid.flatten(2).transpose(1, 2)
        queries = self.queries.expand(grid.shape[0], -1, -1).to(grid.dtype)
        for layer in self.layers:
            queries = layer(queries, patches)
        queries = self.norm(queries)
        pixels = self.upsample(grid)
        masks = torch.einsum("bqd,bdhw->bqhw", self.embed(queries), pixels)
        return self.classify(queries), masks / pixels.shape[1] ** 0.5


def build_queries(config: QueryMaskHead, width: int, classes: int) -> QuerySegmentation:
    """Create the head of `head=query_segmentation`."""
    return QuerySegmentation(width, len(config.taps), classes, config.queries, config.layers, config.channels)
