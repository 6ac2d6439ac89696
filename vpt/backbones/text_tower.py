"""CLIP's text tower: a view of open_clip's layers that accepts embeddings, so that prompts can be learned in the text.

If the tower is causal, tokens after the end token have no effect, and leading tokens that are equal for all classes are
computed once, as a prefix with keys and values shared by every class. Uses private members of open_clip;
tests/backbones/test_text_tower.py compares it with open_clip's `encode_text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip import read_block
from vpt.backbones.adapters.timm import UnreadableError
from vpt.backbones.block import Block


@dataclass(frozen=True)
class TextTower:
    """Views of the parts of a text transformer; the weights stay in open_clip's modules."""

    embed: Callable[[Tensor], Tensor]  # token ids (...) to token embeddings (..., C)
    positions: Callable[[], Tensor]  # (length, C)
    blocks: tuple[Block, ...]
    norm: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]  # pooled tokens (K, C) to features (K, D)
    causal: bool
    pools_last: bool  # reads the last position instead of the end token
    length: int  # number of positions
    width: int  # channels C


def read_text(clip: Any) -> TextTower:
    """Read the text tower of an open_clip model.

    Raises:
        UnreadableError: a tower that does not accept embeddings (Hugging Face encoders, CoCa), with its name.
    """
    part = clip if hasattr(clip, "token_embedding") else clip.text
    if not hasattr(part, "token_embedding") or getattr(part, "cls_emb", None) is not None:
        raise UnreadableError(f"{type(part).__module__}.{type(part).__name__}")
    pool = getattr(part, "text_pool_type", None) or getattr(part, "pool_type", "argmax")
    if pool not in ("argmax", "eos", "last"):
        raise UnreadableError(f"{type(part).__name__} with pooling '{pool}'")
    return TextTower(
        embed=part.token_embedding,
        positions=lambda: part.positional_embedding,
        blocks=tuple(read_block(block) for block in part.transformer.resblocks),
        norm=part.ln_final,
        project=_Project(part),
        causal=part.attn_mask is not None,
        pools_last=pool == "last",
        length=part.positional_embedding.shape[0],
        width=part.positional_embedding.shape[1],
    )


@dataclass(frozen=True)
class _Project:
    part: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        projection = self.part.text_projection
        if projection is None:
            return tokens
        return projection(tokens) if isinstance(projection, nn.Module) else tokens @ projection


def encode(
    tower: TextTower,
    tokens: Tensor,
    ends: Tensor,
    shared: int = 0,
    deep: Mapping[int, Tensor] | None = None,
    place: int = 1,
    own: Mapping[int, Tensor] | None = None,
    joined: Mapping[int, Tensor] | None = None,
    fraction: float = 1.0,
) -> Tensor:
    """Text features of embedded texts, with position embeddings already added.

    Args:
        tower: the text tower.
        tokens: (G, K, T, C), K texts for each of G contexts; positions after the last end token may be cut if `causal`.
        ends: (K,) position of the end token.
        shared: number of leading tokens that are equal in all texts of a group; they are computed once. Must be 0 if
            the tower is not causal.
        deep: layer -> tokens (M, C) or (G, M, C) that replace those at `place` before this layer (IVLP, MaPLe); they
            must lie within the shared tokens if the tower is causal.
        place: position of the deep tokens.
        own: as `deep`, but (K, M, C), tokens of each text (TCP); nothing is shared from this layer on.
        joined: layer -> tokens (M, C) that join the sequence behind its first token before the first of these layers,
            and replace their outputs before the others (MMRL); at least one token is shared if the tower is causal.
        fraction: of them in these other layers, the rest being the outputs (MMRL++).

    Returns:
        (G, K, D), not normalised.
    """
    groups, texts, length, _ = tokens.shape
    deep, own, joined = deep or {}, own or {}, joined or {}
    added = 0  # number of tokens that have joined
    if not tower.causal:
        tokens = tokens.flatten(0, 1)
        for layer, block in enumerate(tower.blocks):
            if layer in deep:
                fresh = deep[layer].expand(groups, -1, -1).repeat_interleave(texts, 0)
                tokens = _replaced(tokens, fresh, place)
            if layer in own:
                tokens = _replaced(tokens, own[layer].repeat(groups, 1, 1), place)
            if layer in joined:
                tokens = _joined(tokens, joined[layer], added, fraction)
                added = len(joined[layer])
            queries = (ends + added).repeat(groups) if layer == len(tower.blocks) - 1 else None
            tokens = block.forward(tokens, queries=queries)
        return tower.project(tower.norm(tokens)[:, 0]).unflatten(0, (groups, texts))
    prefix, suffix = tokens[:, 0, :shared], tokens[:, :, shared:].flatten(0, 1)
    longest = length + len(next(iter(joined.values()), ()))
    seen = torch.ones(longest, longest, dtype=torch.bool, device=tokens.device).tril()
    for layer, block in enumerate(tower.blocks):
        last = layer == len(tower.blocks) - 1
        if layer in deep:
            fresh = deep[layer].to(prefix.dtype).expand(groups, -1, -1)
            prefix = _replaced(prefix, fresh, place)
        if layer in own:
            suffix, shared = torch.cat([prefix.repeat_interleave(texts, 0), suffix], dim=1), 0
            suffix = _replaced(suffix, own[layer].to(suffix.dtype).repeat(groups, 1, 1), place)
        if layer in joined:
            prefix = _joined(prefix, joined[layer], added, fraction)
            added, shared = len(joined[layer]), prefix.shape[1]
        extra = None
        if shared:
            extra = block.keys_values(prefix)
            extra = type(extra)(*(part.repeat_interleave(texts, 0) for part in extra)) if groups > 1 else extra
        queries = (ends + added - shared).repeat(groups) if last else None
        suffix = block.forward(suffix, extra, queries, mask=seen[shared : length + added, : length + added])
        if shared and not last:
            prefix = block.forward(prefix, mask=seen[:shared, :shared])
    return tower.project(tower.norm(suffix)[:, 0]).unflatten(0, (groups, texts))


def _replaced(tokens: Tensor, fresh: Tensor, place: int) -> Tensor:
    return torch.cat([tokens[:, :place], fresh, tokens[:, place + fresh.shape[1] :]], dim=1)


def _joined(tokens: Tensor, given: Tensor, added: int, fraction: float) -> Tensor:
    """Insert tokens behind the first one, or replace a fraction of those that were added."""
    given = given.to(tokens.dtype).expand(len(tokens), -1, -1)
    if added and fraction != 1:
        given = fraction * given + (1 - fraction) * tokens[:, 1 : 1 + added]
    return torch.cat([tokens[:, :1], given, tokens[:, 1 + added :]], dim=1)


def leading_equal(slots: Sequence[Sequence[int]] | Tensor) -> int:
    """Number of leading columns that are equal in all rows.

    >>> leading_equal([[1, 2, 3], [1, 2, 4]])
    2
    """
    table = torch.as_tensor(slots)
    same = (table == table[:1]).all(0)
    return int(same.to(torch.int64).cumprod(0).sum())
