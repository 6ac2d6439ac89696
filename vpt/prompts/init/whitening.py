"""BPT's whitening: an initialisation that decorrelates the factors of prompts in attention (Wang et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from vpt.backbones.block import Block

REACHED = 1e-6  # threshold relative to the largest singular value, the precision of float32 weights


def affine(block: Block, part: int, width: int) -> tuple[Tensor, Tensor]:
    """Linear map (C, C) and bias (C,) from tokens to queries (part 0), keys (1) or values (2) of a layer:
    `tokens @ map + bias`, independent of how the library stores it."""
    probe = torch.eye(width)
    probe = probe.to(next(block.mlp.parameters(), probe).device)
    bias = block.project(torch.zeros_like(probe[:1])[None], "qkv")[part][0, 0]
    return block.project(probe[None], "qkv")[part][0] - bias, bias


def whitening(block: Block, rows: Tensor) -> Tensor:
    """Whitening matrix (C, C) of a layer.

    A prompt token p and a patch token x, both after the norm, have the attention score p Wq Wk^T x^T. With
    M = Wq Wk^T X^T, the matrix is the inverse square root of M M^T over the number of tokens, uncentred. Directions
    outside the range of M, which exist if there are fewer tokens than channels, are left out: they have no variance.
    The released code averages M over images first, and divides by the rounding errors of those directions.

    Args:
        rows: X (N, C), patch tokens of some images after the norm.

    >>> from types import SimpleNamespace
    >>> block = SimpleNamespace(project=lambda x, part: (x, x, x), mlp=torch.nn.Linear(2, 2))
    >>> matrix = whitening(block, torch.randn(500, 2) @ torch.diag(torch.tensor([2.0, 0.5])))
    >>> bool(matrix[0, 0] < matrix[1, 1])
    True
    """
    width = rows.shape[1]
    query, _ = affine(block, 0, width)
    key, _ = affine(block, 1, width)
    met = query.double() @ key.double().T @ rows.double().T
    # Singular values of M instead of eigenvalues of M M^T, whose small ones are lost to rounding.
    vectors, sizes = torch.linalg.svd(met, full_matrices=False)[:2]
    sizes = sizes / rows.shape[0] ** 0.5
    reached = sizes > REACHED * sizes[0]
    inverse = torch.where(reached, 1 / sizes, 0.0)
    return ((vectors * inverse) @ vectors.T).to(query.dtype)


def whitened_columns(block: Block, rows: Tensor, rank: int, seed: int) -> Tensor:
    """`rank` random columns of the whitening matrix, without repetition, scaled to the norm of a Xavier initialisation:
    (C, rank)."""
    matrix = whitening(block, rows)
    width = matrix.shape[0]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    columns = matrix[:, order.repeat(-(-rank // width))[:rank]]
    return columns * ((2.0 / (width + rank)) ** 0.5 / columns.std())
