"""A common view of a frozen transformer layer, whichever library built it.

A view owns no weights. It names the parts of a library's layer, so that the forward pass can do what the library's own
`forward` cannot: add extra keys and values, and compute only the queries whose output is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.attention import attend, attend_weighted
from vpt.backbones.chain import IDENTITY, Chain
from vpt.backbones.kernels import split_heads
from vpt.backbones.layer_changes import CHANGED
from vpt.backbones.quantization.linear import linear
from vpt.backbones.windows import Windows

Part = Literal["q", "kv", "qkv"]
PARTS: dict[Part, slice] = {"q": slice(0, 1), "kv": slice(1, 3), "qkv": slice(0, 3)}


class KeyValue(NamedTuple):
    """Keys and values of tokens that have no query, each (1 or B, heads, P, head_dim)."""

    key: Tensor
    value: Tensor


class Beside(NamedTuple):
    """Keys and values of a second attention, (1 or B, heads, P, head_dim), and its share in the sum of both."""

    key: Tensor
    value: Tensor
    share: float


class Adapter(NamedTuple):
    """A bottleneck added to a layer, for (C, r) matrices or one of each image, (B, C, r)."""

    down: Tensor  # (C, r) or (B, C, r)
    down_bias: Tensor  # (r,) or (B, 1, r)
    up: Tensor  # (r, C) or (B, r, C)
    up_bias: Tensor  # (C,) or (B, 1, C)
    after: bool = False  # it reads the output of the MLP, with GELU; else the input of the MLP's norm, with ReLU
    dropout: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """What is added for tokens (B, N, C)."""
        down, down_bias, up, up_bias = (part.to(x.dtype) for part in self[:4])
        hidden = x @ down + down_bias
        hidden = F.gelu(hidden) if self.after else F.relu(hidden)
        return F.dropout(hidden, self.dropout, training=self.dropout > 0) @ up + up_bias


def join(first: KeyValue | None, second: KeyValue) -> KeyValue:
    """Concatenate keys and values, in the dtype and batch size of the second."""
    if first is None:
        return second
    batch = first.key.shape[0] if second.key.shape[0] == 1 else second.key.shape[0]
    parts = [
        [part.to(second.value.dtype).expand(batch, -1, -1, -1) for part in pair]
        for pair in zip(first, second, strict=True)
    ]
    return KeyValue(*(torch.cat(pair, dim=2) for pair in parts))


class Projection(Protocol):
    """Maps normed tokens (B, N, C) to the requested queries, keys or values, each (B, N, heads * head_dim)."""

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class FusedProjection:
    """Queries, keys and values stacked in one weight; slices of it are used if only some are requested."""

    module: Any  # owner of the weight; not a layer wrapped by an adapter, see WrappedProjection
    weight: str = "weight"
    bias: str = "bias"

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]:
        return self.packed(tokens, part).chunk(len(part), dim=-1)

    def packed(self, tokens: Tensor, part: Part) -> Tensor:
        """The requested parts concatenated, (B, N, 1 to 3 times heads * head_dim)."""
        wanted = PARTS[part]
        weight, bias = getattr(self.module, self.weight), getattr(self.module, self.bias)
        width = weight.shape[0] // 3
        span = slice(wanted.start * width, wanted.stop * width)
        out = linear(tokens, weight, bias, span)
        add = vars(self.module).get(CHANGED)
        return out if add is None else add(tokens, out, span)


@dataclass(frozen=True)
class WrappedProjection:
    """A fused layer wrapped by an adapter (LoRA): computed as a whole, then split."""

    module: nn.Module

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]:
        return self.module(tokens).chunk(3, dim=-1)[PARTS[part]]


@dataclass(frozen=True)
class BiasedProjection:
    """A fused layer without bias, whose query and value biases are separate parameters (EVA, BEiT)."""

    inner: Projection
    attention: Any

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]:
        biases = (self.attention.q_bias, self.attention.k_bias, self.attention.v_bias)[PARTS[part]]
        return tuple(out + bias for out, bias in zip(self.inner(tokens, part), biases, strict=True))


@dataclass(frozen=True)
class SplitProjection:
    """Three separate layers."""

    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]:
        layers: tuple[Callable[[Tensor], Tensor], ...] = (self.query, self.key, self.value)
        return tuple(layer(tokens) for layer in layers[PARTS[part]])


def select_tokens(tokens: Tensor, queries: slice | Tensor | None) -> Tensor:
    """Select tokens (B, N, C): a contiguous range, or one per image, (B, 1, C).

    >>> select_tokens(torch.arange(6).view(2, 3, 1), torch.tensor([0, 2])).flatten().tolist()
    [0, 5]
    """
    if queries is None:
        return tokens
    if isinstance(queries, slice):
        return tokens[:, queries]
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), queries][:, None]


@dataclass(frozen=True)
class Block:
    """x + after1(attention(before1(x))), then the same with the MLP.

    In a pre-norm layer `before` is the norm and `after` the layer scale; in a post-norm layer `before` is empty and
    `after` ends with the norm.
    """

    before1: Chain
    project: Projection
    query_norm: Chain
    key_norm: Chain
    out: Chain  # inner norm and output projection
    after1: Chain
    before2: Chain
    mlp: nn.Module
    after2: Chain
    heads: int
    layer: nn.Module  # the library's own layer
    gate: nn.Module | None = None  # gated attention: its sigmoid multiplies the attention output
    inner_norm: Chain = IDENTITY
    rotate_half: bool = False
    drop: nn.Module | None = None  # stochastic depth: in training, drops what a branch adds, per image
    windows: Windows | None = None  # attention within windows, and what merges patches after the layer

    def parts(self) -> dict[str, Any]:
        """Fields of this view, to create another view of the same layer."""
        return {field.name: getattr(self, field.name) for field in fields(Block)}

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of the tokens, if the layer computes in a single one; taken from norms and biases, because weights may
        be quantised."""
        return next((each.dtype for each in self.layer.parameters() if each.ndim == 1 and each.numel()), None)

    def whole(self) -> AbstractContextManager[None]:
        """Context in which all weights of the layer are available, for code that reads its parts directly."""
        return nullcontext()

    def keys_values(self, tokens: Tensor, norm: bool = True) -> KeyValue:
        """Keys and values of prompt tokens (P, C) or (B, P, C), without rotary embedding, as prompts have no position.

        `norm=False` skips the layer's first norm.
        """
        tokens = (tokens if tokens.ndim == 3 else tokens[None]).to(self.dtype)
        key, value = (self._heads(part) for part in self.project(self.before1(tokens) if norm else tokens, "kv"))
        return KeyValue(self.key_norm(key), value)

    def cross(self, tokens: Tensor, prompt: KeyValue) -> Tensor:
        """Cross-attention of tokens (B, N, C), not normed, to a prompt's keys and values, with the layer's own weights
        and LayerScale."""
        (query,) = (self._heads(part) for part in self.project(tokens, "q"))
        query = self.query_norm(query)
        shape = (query.shape[0], *prompt.key.shape[1:])
        key, value = (part.to(query.dtype).expand(shape) for part in prompt)
        mixed = self.inner_norm(attend(query, key, value).transpose(1, 2).flatten(2))
        return self.after1(self.out(mixed))

    def forward(
        self,
        x: Tensor,
        extra: KeyValue | None = None,
        queries: slice | Tensor | None = None,
        rope: Tensor | None = None,
        prefix: int = 0,
        branch: KeyValue | None = None,
        temperature: Tensor | None = None,
        mask: Tensor | None = None,
        value_bias: Tensor | None = None,
        adapter: Adapter | None = None,
        factors: Tensor | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            x: tokens (B, N, C).
            extra: keys and values seen by every query in addition to those of `x`.
            queries: tokens whose output is needed: a contiguous slice with both ends, or the index (B,) of one token
                per image; None for all.
            rope: rotary embedding of the tokens from `prefix` on, (N - prefix, 2 * head_dim) or (heads, ...).
            prefix: number of leading tokens without rotary embedding, or outside the windows.
            branch: keys and values for cross-attention between attention and MLP.
            temperature: divides the attention scores; a scalar or (B, 1, 1, 1).
            mask: boolean, True to attend, over the keys of `extra` followed by those of the tokens: (N, M) per token,
                (B, 1, 1, M) per image, or (B, 1, N, M) per image and token.
            value_bias: added to all values; (C,) or (B, 1, C).
            adapter: added beside or after the MLP.
            factors: of the attention weights of all tokens on the first keys, (B, N, P), after the softmax.
            beside: second attention of the same queries, mixed with the first one before the output projection.

        Returns:
            (B, selected tokens, C).
        """
        tokens = self.before1(x)
        kept, kept_tokens = select_tokens(x, queries), select_tokens(tokens, queries)
        if self.windows is not None:
            parts = self._projected(self.windows.cut(tokens, prefix), None, None, 0)
            mixed = select_tokens(self.windows.attend(*parts, extra, prefix, mask), queries)
            return self.windows.merged(self._finished(kept, kept_tokens, mixed, branch, adapter))
        query, key, value = self._projected(tokens, queries, rope, prefix, extra)
        if temperature is not None:
            query = (query / temperature).to(query.dtype)
        if mask is not None and mask.ndim == 2 and queries is not None:
            mask = mask[queries] if isinstance(queries, slice) else mask[queries][:, None, None]
        elif mask is not None and mask.shape[-2] > 1 and queries is not None:
            mask = select_tokens(mask.expand(x.shape[0], -1, -1, -1)[:, 0], queries)[:, None]
        if factors is None:
            mixed = attend(query, key, value, mask)
        else:
            mixed = attend_weighted(query, key, value, select_tokens(factors, queries), mask)
        if beside is not None:
            second = (part.to(value.dtype).expand(x.shape[0], -1, -1, -1) for part in beside[:2])
            mixed = (1 - beside.share) * mixed + beside.share * attend(query, *second)
        mixed = mixed.transpose(1, 2).flatten(2)
        if value_bias is not None:  # attention weights sum to one
            mixed = mixed + value_bias.to(mixed.dtype)
        return self._finished(kept, kept_tokens, mixed, branch, adapter)

    def unattended(self, tokens: Tensor) -> Tensor:
        """Outputs of tokens (B, P, C) that do not attend: their normed inputs take the place of the attention's."""
        normed = self.before1(tokens)
        return self._finished(tokens, normed, normed)

    def queried(self, tokens: Tensor, x: Tensor, rope: Tensor | None = None, prefix: int = 0) -> Tensor:
        """Outputs (B, T, C) of tokens (T, C) or (B, T, C) without a position, which attend to `x` (B, N, C) only; see
        `forward`."""
        tokens = (tokens if tokens.ndim == 3 else tokens[None]).to(x.dtype).expand(x.shape[0], -1, -1)
        normed = self.before1(tokens)
        return self._finished(tokens, normed, self._across(normed, x, rope, prefix))

    def attended(
        self,
        tokens: Tensor,
        x: Tensor,
        mask: Tensor | None = None,
        queries: slice | None = None,
        rope: Tensor | None = None,
        prefix: int = 0,
    ) -> Tensor:
        """What attention adds to tokens (1 or B, N, C), or those of them in `queries`, that attend to the tokens `x`
        (B, N, C) at the same positions instead of to themselves; `mask` (N, N) and the rest as in `forward`."""
        normed = select_tokens(self.before1(tokens), queries)
        start = 0 if queries is None else queries.start
        mask = mask if mask is None or queries is None else mask[queries]
        return self._attention_output(normed, self._across(normed, x, rope, prefix, start, mask))

    def _across(
        self,
        normed: Tensor,
        x: Tensor,
        rope: Tensor | None,
        prefix: int,
        start: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attention, with heads concatenated, of normed tokens to tokens `x` (B, N, C). The first of them is at
        position `start` of the sequence; None: they have no position."""
        (query,) = (self._heads(part) for part in self.project(normed, "q"))
        key, value = (self._heads(part) for part in self.project(self.before1(x), "kv"))
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query = query if start is None else self._rotate(query, rope, start - prefix)
            key = self._rotate(key, rope, -prefix).to(value.dtype)
        query = query.to(value.dtype).expand(x.shape[0], -1, -1, -1)
        return attend(query, key, value, mask).transpose(1, 2).flatten(2)

    def _attention_output(self, normed: Tensor, mixed: Tensor) -> Tensor:
        """What attention adds to tokens, whose heads are concatenated in `mixed`."""
        mixed = self.inner_norm(mixed)
        if self.gate is not None:
            mixed = mixed * self.gate(normed).sigmoid()
        return self.after1(self.out(mixed))

    def _finished(
        self,
        x: Tensor,
        normed: Tensor,
        mixed: Tensor,
        branch: KeyValue | None = None,
        adapter: Adapter | None = None,
    ) -> Tensor:
        """The layer after the attention of tokens, whose heads are concatenated in `mixed`."""
        x = x + self._dropped(self._attention_output(normed, mixed))
        if branch is not None:
            x = x + self.cross(x, branch)
        added = self.after2(self.mlp(self.before2(x)))
        if adapter is not None and adapter.after:
            added = added + adapter(added)
        out = x + self._dropped(added)
        return out + adapter(x) if adapter is not None and not adapter.after else out

    def _dropped(self, added: Tensor) -> Tensor:
        return added if self.drop is None else self.drop(added)

    def queries_keys_values(
        self, x: Tensor, rope: Tensor | None = None, prefix: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the layer's attention for tokens (B, N, C), each (B, heads, N, head_dim)."""
        return self._projected(self.before1(x), None, rope, prefix)

    def _projected(
        self,
        tokens: Tensor,
        queries: slice | Tensor | None,
        rope: Tensor | None,
        prefix: int,
        extra: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and keys and values preceded by those of `extra`."""
        first = queries.start if isinstance(queries, slice) else 0
        part: Part = "qkv" if queries is None else "kv"
        asked = () if queries is None else self.project(select_tokens(tokens, queries), "q")
        if isinstance(self.project, FusedProjection) and split_heads.worthwhile(tokens):
            # Keys that need a norm or rotation first are joined with those of the prompt afterwards.
            touched = bool(self.query_norm.parts or self.key_norm.parts) or rope is not None
            joined = None if extra is None or touched or extra.key.shape[0] not in (1, len(tokens)) else extra
            packed = self.project.packed(tokens, part)
            cut = split_heads.cut_heads(packed, len(part), self.heads, *(joined or (None, None)))
            extra = None if joined else extra
        else:
            cut = tuple(self._heads(one) for one in self.project(tokens, part))
        query, key, value = (*(self._heads(one) for one in asked), *cut)
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query = self._rotate(query, rope, first - prefix).to(value.dtype)
            key = self._rotate(key, rope, -prefix).to(value.dtype)
        if extra is not None:
            key, value = join(extra, KeyValue(key, value))
        return query, key, value

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, heads * head_dim) to (B, heads, N, head_dim)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _rotate(self, tokens: Tensor, rope: Tensor, place: int) -> Tensor:
        """Rotate tokens (B, heads, N, head_dim), the first of which is at position `place` of the patch sequence."""
        still = min(max(0, -place), tokens.shape[2])
        if still == tokens.shape[2]:
            return tokens
        start = max(0, place)
        turned = apply_rot_embed_cat(
            tokens[:, :, still:], rope[..., start : start + tokens.shape[2] - still, :], half=self.rotate_half
        )
        return torch.cat([tokens[:, :, :still], turned], dim=2) if still else turned
