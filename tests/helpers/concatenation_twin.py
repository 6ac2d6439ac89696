"""The slow obvious twin: prompts concatenated into the sequence, every layer the library's own, as VPT defines it.

Jia et al. 2022, equations 4-8: [CLS, prompts, patches] goes through each layer whole; in a prompted layer the prompt
rows are replaced by fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone


def twin_features(
    backbone: Backbone,
    images: Tensor,
    sets: Sequence[Tensor],
    inserted: Mapping[int, int],
    after: str,
    pool: str = "native",
    run: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Tensor:
    """Features of normalised images under prompts that are really in the sequence; `sets` are (P, C) or (B, P, C).
    `run` computes a layer without rotary embedding in place of the layer's own forward pass."""
    net = backbone.net
    vit = net.trunk if hasattr(net, "trunk") else net
    rows, rotary, layers, prefix = _embed(vit, images)
    prompts: Tensor | None = None
    current: Tensor | None = None
    for index, layer in enumerate(layers):
        if index in inserted:
            current = sets[inserted[index]]
            prompts = current.expand(len(images), -1, -1)
        elif current is not None and after == "insert":
            prompts = current.expand(len(images), -1, -1)
        elif after == "drop":
            prompts = None
        count = 0 if prompts is None else prompts.shape[1]
        parts = [rows[:, :prefix], *([] if prompts is None else [prompts]), rows[:, prefix:]]
        whole = torch.cat(parts, dim=1)
        out = run(layer, whole) if run else _layer(layer, whole, _rope_of(vit, rotary, index), prefix + count)
        prompts = out[:, prefix : prefix + count] if count else None
        rows = torch.cat([out[:, :prefix], out[:, prefix + count :]], dim=1)
    return _pool(net, vit, rows, prompts, prefix, pool)


def _embed(vit: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None, Sequence[nn.Module], int]:
    if hasattr(vit, "transformer"):
        return vit._embeds(images), None, list(vit.transformer.resblocks), 1
    rotary = None
    rows = vit._pos_embed(vit.patch_embed(images))
    if isinstance(rows, tuple):
        rows, rotary = rows
    elif hasattr(vit, "patch_drop"):
        rows = vit.patch_drop(rows)
    return vit.norm_pre(rows), rotary, list(vit.blocks), vit.num_prefix_tokens


def _rope_of(vit: nn.Module, rotary: Tensor | None, layer: int) -> Tensor | None:
    return rotary[layer] if rotary is not None and getattr(vit, "rope_mixed", False) else rotary


def _layer(layer: nn.Module, rows: Tensor, rotary: Tensor | None, prefix: int) -> Tensor:
    if rotary is None:
        return layer(rows)
    usual = layer.attn.num_prefix_tokens
    layer.attn.num_prefix_tokens = prefix  # prompts are not rotated
    try:
        return layer(rows, rope=rotary)
    finally:
        layer.attn.num_prefix_tokens = usual


def _pool(net: nn.Module, vit: nn.Module, rows: Tensor, prompts: Tensor | None, prefix: int, pool: str) -> Tensor:
    if pool == "native":
        if hasattr(vit, "transformer"):
            pooled, _ = vit._pool(rows)
            return pooled if vit.proj is None else pooled @ vit.proj
        normed = vit.norm(rows)
        if vit is not net:
            return net.head(vit.forward_head(normed))
        return vit.forward_head(normed, pre_logits=True)
    patches = rows[:, prefix:]
    if pool.startswith("mean_then"):
        mean = (patches if prompts is None else torch.cat([prompts, patches], dim=1)).mean(1)
        if pool == "mean_then_norm":
            return (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return vit.ln_post(mean) if hasattr(vit, "transformer") else vit.fc_norm(vit.norm(mean))
    norm, finish = (vit.ln_post, nn.Identity()) if hasattr(vit, "transformer") else (vit.norm, vit.fc_norm)
    select_tokens = {
        "cls": rows[:, :1],
        "avg": rows[:, prefix:],
        "prompts": prompts,
        "all": None if prompts is None else torch.cat([prompts, rows[:, prefix:]], dim=1),
    }[pool]
    return finish(norm(select_tokens).mean(1))
