"""BPT's whitening: a start that decorrelates what prompts multiply in attention (Wang et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from vpt.backbones.block import Block


def affine(block: Block, part: int, width: int) -> tuple[Tensor, Tensor]:
    """The linear map (C, C) and bias (C,) by which a layer makes queries (part 0), keys (1) or values (2) of rows:
    `rows @ map + bias`, whatever the library stores."""
    probe = torch.eye(width)
    probe = probe.to(next(block.mlp.parameters(), probe).device)
    bias = block.project(torch.zeros_like(probe[:1])[None], "qkv")[part][0, 0]
    return block.project(probe[None], "qkv")[part][0] - bias, bias


def whitening(block: Block, rows: Tensor, share: float = 1e-3) -> Tensor:
    """Whitening matrix (C, C) of a layer.

    A prompt row p meets a patch row x, both after the norm, in the score p Wq Wk^T x^T. With M = Wq Wk^T X^T, the
    matrix is the inverse square root of M M^T over the number of rows, uncentred. There are fewer rows than channels at
    times, so `share` of the mean variance is added to all; the released code lacks this and divides by noise.

    Args:
        rows: X (N, C), normed patch rows of some images.

    >>> from types import SimpleNamespace
    >>> block = SimpleNamespace(project=lambda x, part: (x, x, x), mlp=torch.nn.Linear(2, 2))
    >>> matrix = whitening(block, torch.randn(500, 2) @ torch.diag(torch.tensor([2.0, 0.5])), share=0.0)
    >>> bool(matrix[0, 0] < matrix[1, 1])
    True
    """
    width = rows.shape[1]
    query, _ = affine(block, 0, width)
    key, _ = affine(block, 1, width)
    met = (query @ key.T @ rows.T.to(query.dtype)).double()
    covariance = met @ met.T / rows.shape[0]
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0) + share * values.mean()
    return (vectors / values.sqrt() @ vectors.T).to(query.dtype)


def whitened_columns(block: Block, rows: Tensor, rank: int, seed: int) -> Tensor:
    """`rank` columns of the whitening matrix, drawn without repetition and brought to the scale of a Xavier start:
    (C, rank)."""
    matrix = whitening(block, rows)
    width = matrix.shape[0]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    columns = matrix[:, order.repeat(-(-rank // width))[:rank]]
    return columns * ((2.0 / (width + rank)) ** 0.5 / columns.std())
