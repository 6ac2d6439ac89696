"""VIPAMIN: prompts are initialised near similar patches and outside of the used subspace (Park and Chung 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.backbones.attention import attend
from vpt.backbones.block import Block
from vpt.backbones.vit_spec import Tower
from vpt.prompts.init.whitening import affine

LONGEST = 1.0  # maximum norm of the orthogonal part, relative to that of the matched one
USED = 0.01  # threshold relative to the largest singular value of the attention outputs, if these span all channels


def vipamin(tower: Tower, images: Tensor, tokens: Tensor, layers: Sequence[int], nearest: int, expand: float) -> Tensor:
    """Initialise VPT prompts: (1 - expand) * selected + expand * expanded, for every prompted layer.

    selected: the mean of the batch-mean patch tokens whose keys are most similar to the prompt's key. expanded: the
    prompt moved so that its value is orthogonal to the attention outputs of the frozen backbone.

    Args:
        images: (B, 3, S, S) normalised; one batch.
        tokens: (layers, P, C) random prompts, as initialised by VPT.
        layers: the layers they are inserted before, each with a set of its own.
        nearest: k patches averaged for a prompt.
        expand: lambda, from 0 to 1.

    Returns:
        (layers, P, C).
    """
    rows, rotary = tower.embed(images)
    prompted = plain = rows
    found = []
    for layer, block in enumerate(tower.blocks):
        rope = tower.rope(rotary, layer)
        extra = None
        if layer in layers:
            mine = tokens[list(layers).index(layer)]
            patches = prompted[:, tower.prefix :]
            selected = _selected(block, patches, mine, nearest)
            expanded = _expanded(block, plain, mine, rope, tower.prefix, LONGEST * float(selected.norm()))
            found.append((1 - expand) * selected + expand * expanded)
            extra = block.keys_values(mine)
        # Candidates come from a forward pass with the random prompts, the used subspace from one without.
        prompted = block.forward(prompted, extra, None, rope, tower.prefix)
        plain = block.forward(plain, None, None, rope, tower.prefix)
    return torch.stack(found)


def _selected(block: Block, patches: Tensor, tokens: Tensor, nearest: int) -> Tensor:
    """(P, C): means of batch-mean patch tokens, selected by the similarity of keys averaged over batch and heads."""
    key_rows = block.keys_values(patches).key.mean((0, 1))
    key_tokens = block.keys_values(tokens).key.mean((0, 1))
    likeness = F.normalize(key_tokens, dim=1) @ F.normalize(key_rows, dim=1).T
    chosen = likeness.topk(min(nearest, likeness.shape[1]), dim=1).indices
    return patches.mean(0)[chosen].mean(1)


def _expanded(block: Block, rows: Tensor, tokens: Tensor, rope: Tensor | None, prefix: int, longest: float) -> Tensor:
    """(P, C): tokens whose values lie outside the span of the batch-mean attention outputs, the paper's
    (I - V V^T)(p W) W^+, with a norm of at most `longest`.

    Real layers have directions that hardly affect the values, and a full inverse makes tokens hundreds of times longer
    than patch tokens: the pseudo-inverse is truncated to the singular values that keep the norm within `longest`. If
    there are fewer channels than tokens, so that the outputs span all channels, only the dominant directions count as
    used. The released code adds the bias of the values, which shifts all tokens in the same direction, and omits a
    transpose when mapping values back to tokens.
    """
    query, key, value = block.queries_keys_values(rows, rope, prefix)
    outputs = attend(query, key, value).transpose(1, 2).flatten(2).mean(0).double()  # (N, C)
    _, sizes, basis = torch.linalg.svd(outputs, full_matrices=False)
    if len(basis) >= tokens.shape[1]:
        basis = basis[sizes > USED * sizes[0]]
    with block.whole():
        matrix = affine(block, 2, tokens.shape[1])[0].double()
    values = tokens.double() @ matrix
    outside = values - values @ basis.T @ basis
    left, gains, right = torch.linalg.svd(matrix)
    parts = outside @ right.T / gains  # along the directions of tokens, largest gains first
    kept = parts.square().sum(0).cumsum(0) <= longest**2
    return (torch.where(kept, parts, 0.0) @ left.T).to(tokens.dtype)
