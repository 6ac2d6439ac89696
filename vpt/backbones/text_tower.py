"""CLIP's text tower: a view on open_clip's own layers that takes embeddings, so that prompts can learn among the words.

Where the tower is causal, rows behind the end token change nothing and rows that are the same for all classes are
computed once: a prefix with keys and values that every class sees. Touches private members of open_clip;
tests/backbones/test_text_tower.py ties it to open_clip's `encode_text`.
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
    """Views on the parts of a text transformer; the weights stay where open_clip put them."""

    embed: Callable[[Tensor], Tensor]  # token ids (...) to rows (..., C)
    positions: Callable[[], Tensor]  # (length, C)
    blocks: tuple[Block, ...]
    norm: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]  # pooled rows (K, C) to features (K, D)
    causal: bool
    pools_last: bool  # the last place is read instead of the end token's
    length: int  # places of a text
    width: int  # channels C


def read_text(clip: Any) -> TextTower:
    """Read the text tower of an open_clip model.

    Raises:
        UnreadableError: a tower that takes no embeddings (Hugging Face encoders, CoCa), by name.
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

    def __call__(self, rows: Tensor) -> Tensor:
        projection = self.part.text_projection
        if projection is None:
            return rows
        return projection(rows) if isinstance(projection, nn.Module) else rows @ projection


def encode(
    tower: TextTower,
    rows: Tensor,
    ends: Tensor,
    shared: int = 0,
    deep: Mapping[int, Tensor] | None = None,
    place: int = 1,
) -> Tensor:
    """Text features of embedded texts, positions included.

    Args:
        tower: the text tower.
        rows: (G, K, T, C), K texts for each of G contexts; places behind the last end may be missing if `causal`.
        ends: (K,) place of the end token.
        shared: how many leading places hold the same rows in all texts of a group; they are computed once. Zero where
            the tower is not causal.
        deep: layer -> rows (M, C) or (G, M, C) that replace those at `place` before it (IVLP, MaPLe); they must lie
            within the shared places where the tower is causal.
        place: of deep rows.

    Returns:
        (G, K, D), not normalised.
    """
    groups, texts, length, _ = rows.shape
    deep = deep or {}
    if not tower.causal:
        rows = rows.flatten(0, 1)
        for layer, block in enumerate(tower.blocks):
            if layer in deep:
                fresh = deep[layer].expand(groups, -1, -1).repeat_interleave(texts, 0)
                rows = torch.cat([rows[:, :place], fresh, rows[:, place + fresh.shape[1] :]], dim=1)
            queries = (ends.repeat(groups)) if layer == len(tower.blocks) - 1 else None
            rows = block.forward(rows, queries=queries)
        return tower.project(tower.norm(rows)[:, 0]).unflatten(0, (groups, texts))
    prefix, suffix = rows[:, 0, :shared], rows[:, :, shared:].flatten(0, 1)
    seen = torch.ones(length, length, dtype=torch.bool, device=rows.device).tril()
    for layer, block in enumerate(tower.blocks):
        last = layer == len(tower.blocks) - 1
        if layer in deep:
            fresh = deep[layer].to(prefix.dtype).expand(groups, -1, -1)
            prefix = torch.cat([prefix[:, :place], fresh, prefix[:, place + fresh.shape[1] :]], dim=1)
        extra = None
        if shared:
            extra = block.keys_values(prefix)
            extra = type(extra)(*(part.repeat_interleave(texts, 0) for part in extra)) if groups > 1 else extra
        queries = (ends - shared).repeat(groups) if last else None
        suffix = block.forward(suffix, extra, queries, mask=seen[shared:])
        if shared and not last:
            prefix = block.forward(prefix, mask=seen[:shared, :shared])
    return tower.project(tower.norm(suffix)[:, 0]).unflatten(0, (groups, texts))


def leading_equal(slots: Sequence[Sequence[int]] | Tensor) -> int:
    """How many leading columns are the same in all rows.

    >>> leading_equal([[1, 2, 3], [1, 2, 4]])
    2
    """
    table = torch.as_tensor(slots)
    same = (table == table[:1]).all(0)
    return int(same.to(torch.int64).cumprod(0).sum())
