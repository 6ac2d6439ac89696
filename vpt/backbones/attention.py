"""Attention of queries to keys."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; arguments are (B, heads, N or M, head_dim), `mask` (..., N, M) is True to attend.

    Uses torch's fused kernel, except in bfloat16 on a CPU, where two plain matmuls are two to five times faster while
    the weights (B, heads, N, M) are small.

    >>> attend(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4), torch.ones(1, 2, 5, 4)).shape
    torch.Size([1, 2, 3, 4])
    """
    small = query.shape[2] * key.shape[2] <= 512 * 512
    if query.device.type == "cpu" and query.dtype is torch.bfloat16 and small:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_weighted(query: Tensor, key: Tensor, value: Tensor, factors: Tensor, mask: Tensor | None) -> Tensor:
    """As `attend`, but attention weights on the first P keys are multiplied by `factors` (B, N, P) after the softmax.

    >>> rows = torch.ones(1, 2, 3, 4)
    >>> attend_weighted(rows, rows, rows, torch.zeros(1, 3, 3), None).sum().item()
    0.0
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    factors = F.pad(factors, (0, key.shape[2] - factors.shape[2]), value=1.0)[:, None]
    return (scores.float().softmax(-1) * factors).to(value.dtype) @ value
