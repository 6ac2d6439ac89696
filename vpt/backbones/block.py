"""The frozen block: one view of a transformer layer, whichever library built it.

A view owns no weights. It names the parts of a library's layer so that the executor can do what the library's own
`forward` cannot: let extra keys and values in, and compute only the queries that somebody reads.
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

from vpt.backbones.kernels import split_heads
from vpt.backbones.quantization.linear import linear

Part = Literal["q", "kv", "qkv"]
PARTS: dict[Part, slice] = {"q": slice(0, 1), "kv": slice(1, 3), "qkv": slice(0, 3)}


class KeyValue(NamedTuple):
    """Keys and values of rows that have no query, each (1 or B, heads, P, head_dim)."""

    key: Tensor
    value: Tensor


def join(first: KeyValue | None, second: KeyValue) -> KeyValue:
    """Keys and values one after the other, in the type and for the batch of the second."""
    if first is None:
        return second
    batch = max(first.key.shape[0], second.key.shape[0])
    parts = [
        [part.to(second.value.dtype).expand(batch, -1, -1, -1) for part in pair]
        for pair in zip(first, second, strict=True)
    ]
    return KeyValue(*(torch.cat(pair, dim=2) for pair in parts))


class Projection(Protocol):
    """Maps normed rows (B, N, C) to the wanted ones of queries, keys and values, each (B, N, heads * head_dim)."""

    def __call__(self, rows: Tensor, part: Part) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class FusedProjection:
    """Queries, keys and values stacked in one weight, whose slices serve when only some are wanted."""

    module: Any  # what holds the weight; a layer that an adapter has wrapped is called whole instead
    weight: str = "weight"
    bias: str = "bias"

    def __call__(self, rows: Tensor, part: Part) -> tuple[Tensor, ...]:
        return self.packed(rows, part).chunk(len(part), dim=-1)

    def packed(self, rows: Tensor, part: Part) -> Tensor:
        """The wanted ones side by side, (B, N, 1 to 3 times heads * head_dim)."""
        wanted = PARTS[part]
        weight, bias = getattr(self.module, self.weight), getattr(self.module, self.bias)
        width = weight.shape[0] // 3
        return linear(rows, weight, bias, slice(wanted.start * width, wanted.stop * width))


@dataclass(frozen=True)
class WrappedProjection:
    """A fused layer behind an adapter (LoRA): computed whole, then cut."""

    module: nn.Module

    def __call__(self, rows: Tensor, part: Part) -> tuple[Tensor, ...]:
        return self.module(rows).chunk(3, dim=-1)[PARTS[part]]


@dataclass(frozen=True)
class BiasedProjection:
    """A fused layer without bias, whose query and value biases lie beside it (EVA, BEiT)."""

    inner: Projection
    attention: Any

    def __call__(self, rows: Tensor, part: Part) -> tuple[Tensor, ...]:
        biases = (self.attention.q_bias, self.attention.k_bias, self.attention.v_bias)[PARTS[part]]
        return tuple(out + bias for out, bias in zip(self.inner(rows, part), biases, strict=True))


@dataclass(frozen=True)
class SplitProjection:
    """Three separate layers."""

    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]

    def __call__(self, rows: Tensor, part: Part) -> tuple[Tensor, ...]:
        layers: tuple[Callable[[Tensor], Tensor], ...] = (self.query, self.key, self.value)
        return tuple(layer(rows) for layer in layers[PARTS[part]])


@dataclass(frozen=True)
class Chain:
    """Callables one after the other; a module given as None is left out by `chain`."""

    parts: tuple[Callable[[Tensor], Tensor], ...]

    def __call__(self, rows: Tensor) -> Tensor:
        for part in self.parts:
            rows = part(rows)
        return rows


def chain(*parts: Callable[[Tensor], Tensor] | None) -> Chain:
    """Compose modules, leaving out None and identities.

    >>> chain(nn.Identity(), None, nn.ReLU())(torch.tensor([-1.0]))
    tensor([0.])
    """
    return Chain(tuple(part for part in parts if part is not None and not isinstance(part, nn.Identity)))


@dataclass(frozen=True)
class Gain:
    """A learned factor per channel that the library keeps as a bare parameter of `owner`."""

    owner: nn.Module
    name: str

    def __call__(self, rows: Tensor) -> Tensor:
        return rows * getattr(self.owner, self.name)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, each argument (B, heads, N or M, head_dim); `mask` (..., N, M) says what is seen.

    torch's fused kernel, except in bfloat16 on a CPU, where two plain products are two to five times as fast while
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


def picked(rows: Tensor, queries: slice | Tensor | None) -> Tensor:
    """Rows (B, N, C) that are wanted: a stretch of them, or one of each, (B, 1, C).

    >>> picked(torch.arange(6).view(2, 3, 1), torch.tensor([0, 2])).flatten().tolist()
    [0, 5]
    """
    if queries is None:
        return rows
    if isinstance(queries, slice):
        return rows[:, queries]
    return rows[torch.arange(rows.shape[0], device=rows.device), queries][:, None]


@dataclass(frozen=True)
class Block:
    """x + after1(attention(before1(x))), then the same with the MLP.

    In a pre-norm layer `before` is the norm and `after` the layer scale; in a post-norm layer `before` is nothing
    and `after` ends with the norm.
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
    layer: nn.Module  # what the library made
    gate: nn.Module | None = None  # gated attention: its sigmoid multiplies the attention output
    inner_norm: Chain = Chain(())
    rotate_half: bool = False
    drop: nn.Module | None = None  # stochastic depth: leaves out what a branch adds, image by image, while training

    def parts(self) -> dict[str, Any]:
        """What it is made of, for another view of the same layer."""
        return {field.name: getattr(self, field.name) for field in fields(Block)}

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of its rows, where it computes in one type; its norms and biases tell, for weights may be held in
        fewer bits."""
        return next((each.dtype for each in self.layer.parameters() if each.ndim == 1 and each.numel()), None)

    def whole(self) -> AbstractContextManager[None]:
        """While it lasts, all weights of the layer are here; for whoever reads its parts instead of calling it."""
        return nullcontext()

    def keys_values(self, rows: Tensor, norm: bool = True) -> KeyValue:
        """Keys and values of prompt rows (P, C) or (B, P, C); not rotated, for prompts have no place in the image.

        `norm=False` leaves out the layer's first norm.
        """
        rows = (rows if rows.ndim == 3 else rows[None]).to(self.dtype)
        key, value = (self._heads(part) for part in self.project(self.before1(rows) if norm else rows, "kv"))
        return KeyValue(self.key_norm(key), value)

    def cross(self, rows: Tensor, prompt: KeyValue) -> Tensor:
        """Rows (B, N, C), as they are, attend to a prompt's keys and values with the layer's own weights, its scale of
        what attention adds (LayerScale) included."""
        (query,) = (self._heads(part) for part in self.project(rows, "q"))
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
    ) -> Tensor:
        """Run the layer.

        Args:
            x: rows (B, N, C).
            extra: keys and values seen by every query beside those of `x`.
            queries: the contiguous rows whose output is wanted, a slice with both ends; or the place (B,) of one row in
                each; None for all.
            rope: rotary embedding of the rows from `prefix` on, (N - prefix, 2 * head_dim) or (heads, ...).
            prefix: how many leading rows are not rotated.
            branch: keys and values that the kept rows attend to once more, between attention and MLP.
            temperature: attention scores are divided by it; a scalar or (B, 1, 1, 1).
            mask: what each row sees, booleans over the keys of `extra` and then of the rows: (N, M) by row, or
                (B, 1, 1, M) by image, or (B, 1, N, M) by image and row.

        Returns:
            (B, kept rows, C).
        """
        rows = self.before1(x)
        kept, kept_rows = picked(x, queries), picked(rows, queries)
        query, key, value = self._projected(rows, queries, rope, prefix, extra)
        if temperature is not None:
            query = (query / temperature).to(query.dtype)
        if mask is not None and mask.ndim == 2 and queries is not None:
            mask = mask[queries] if isinstance(queries, slice) else mask[queries][:, None, None]
        elif mask is not None and mask.shape[-2] > 1 and queries is not None:
            mask = picked(mask.expand(x.shape[0], -1, -1, -1)[:, 0], queries)[:, None]
        mixed = attend(query, key, value, mask)
        mixed = self.inner_norm(mixed.transpose(1, 2).flatten(2))
        if self.gate is not None:
            mixed = mixed * self.gate(kept_rows).sigmoid()
        kept = kept + self._dropped(self.after1(self.out(mixed)))
        if branch is not None:
            kept = kept + self.cross(kept, branch)
        return kept + self._dropped(self.after2(self.mlp(self.before2(kept))))

    def _dropped(self, added: Tensor) -> Tensor:
        return added if self.drop is None else self.drop(added)

    def queries_keys_values(
        self, x: Tensor, rope: Tensor | None = None, prefix: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the layer's attention computes with for rows (B, N, C): each (B, heads, N, head_dim)."""
        return self._projected(self.before1(x), None, rope, prefix)

    def _projected(
        self,
        rows: Tensor,
        queries: slice | Tensor | None,
        rope: Tensor | None,
        prefix: int,
        extra: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and keys and values behind those of `extra`."""
        first = queries.start if isinstance(queries, slice) else 0
        part: Part = "qkv" if queries is None else "kv"
        asked = () if queries is None else self.project(picked(rows, queries), "q")
        if isinstance(self.project, FusedProjection) and split_heads.worthwhile(rows):
            # Keys that are normed or rotated first are joined with those of the prompt afterwards.
            touched = bool(self.query_norm.parts or self.key_norm.parts) or rope is not None
            joined = None if extra is None or touched or extra.key.shape[0] not in (1, len(rows)) else extra
            packed = self.project.packed(rows, part)
            cut = split_heads.cut_heads(packed, len(part), self.heads, *(joined or (None, None)))
            extra = None if joined else extra
        else:
            cut = tuple(self._heads(one) for one in self.project(rows, part))
        query, key, value = (*(self._heads(one) for one in asked), *cut)
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query = self._rotate(query, rope, first - prefix).to(value.dtype)
            key = self._rotate(key, rope, -prefix).to(value.dtype)
        if extra is not None:
            key, value = join(extra, KeyValue(key, value))
        return query, key, value

    def _heads(self, rows: Tensor) -> Tensor:
        """(B, N, heads * head_dim) to (B, heads, N, head_dim)."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _rotate(self, rows: Tensor, rope: Tensor, place: int) -> Tensor:
        """Rotate rows (B, heads, N, head_dim), the first of which stands at `place` in the patch sequence."""
        still = min(max(0, -place), rows.shape[2])
        if still == rows.shape[2]:
            return rows
        start = max(0, place)
        turned = apply_rot_embed_cat(
            rows[:, :, still:], rope[..., start : start + rows.shape[2] - still, :], half=self.rotate_half
        )
        return torch.cat([rows[:, :, :still], turned], dim=2) if still else turned
