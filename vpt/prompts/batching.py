"""Stacks the prompts of several tasks, so that the images of a batch may belong to different tasks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpt.backbones.block import Adapter, KeyValue
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.backbones.low_rank import LowRank


def shape_of(steps: Sequence[Step], layers: Sequence[LayerPrompt] | None) -> Hashable:
    """Key that two prompts must have in common to be batched together.

    Extra keys may differ in number, because they can be masked; tokens in the sequence may not. A prompt with a
    function or a mask of its own is not batched.

    >>> shape_of([], None) == shape_of([], None)
    True
    """
    keeps = tuple(step.keep for step in steps)
    if layers is None:
        return keeps
    own = ("adapt", "carry", "beside", "added", "weigh", "seen")
    if any(getattr(each, name) is not None for each in layers for name in own):
        return (id(layers), "alone")
    ports = tuple(
        (
            None if layer.tokens is None else layer.tokens.shape[-2],
            layer.extra is not None,
            None if layer.branch is None else layer.branch.key.shape[2],
            layer.temperature is not None,
            layer.gate is not None,
            layer.value_bias is not None,
            None if layer.queries is None else layer.queries.shape[-2],
            None if layer.adapter is None else (layer.adapter.down.shape[-1], layer.adapter.after),
            None if layer.low_rank is None else layer.low_rank.down.shape[-1],
        )
        for layer in layers
    )
    return (keeps, ports)


@dataclass(frozen=True)
class Stack:
    """Prompts of tasks with a common shape; the leading axis is the task."""

    layers: tuple[LayerPrompt, ...] | None

    def of(self, tasks: Tensor) -> list[LayerPrompt] | None:
        """The operations of the prompts for a batch of images that belong to `tasks` (B,)."""
        return None if self.layers is None else [_picked(layer, tasks) for layer in self.layers]


def stack(prompts: Sequence[Sequence[LayerPrompt] | None]) -> Stack:
    """Stack the prompts of tasks, which must have the same shape, see `shape_of`.

    >>> stack([None, None]).layers is None
    True
    """
    first = prompts[0]
    if first is None:
        return Stack(None)
    some = [layers for layers in prompts if layers is not None]
    assert len(some) == len(prompts)
    return Stack(tuple(_stacked([layers[number] for layers in some]) for number in range(len(first))))


def _each(layer: LayerPrompt, change: Callable[[Tensor, int], Tensor]) -> LayerPrompt:
    """Apply `change` to all tensors of a layer, with the number of axes of a tensor that differs for every image."""

    def one(values: Tensor | None, axes: int) -> Tensor | None:
        return None if values is None else change(values, axes)

    def pair(values: KeyValue | None) -> KeyValue | None:
        return None if values is None else KeyValue(change(values.key, 4), change(values.value, 4))

    def bottleneck(values: Adapter | None) -> Adapter | None:
        if values is None:
            return None
        down, down_bias, up, up_bias = (change(part, 3) for part in values[:4])
        return Adapter(down, down_bias, up, up_bias, values.after)

    def low_rank(values: LowRank | None) -> LowRank | None:
        return None if values is None else LowRank(change(values.down, 4), change(values.up, 4))

    return LayerPrompt(
        tokens=one(layer.tokens, 3),
        extra=pair(layer.extra),
        seen=one(layer.seen, 2 if layer.seen is None else layer.seen.ndim),
        weigh=layer.weigh,
        adapt=layer.adapt,
        carry=layer.carry,
        beside=layer.beside,
        added=layer.added,
        branch=pair(layer.branch),
        temperature=one(layer.temperature, 4),
        gate=one(layer.gate, 3),
        value_bias=one(layer.value_bias, 3),
        queries=one(layer.queries, 3),
        adapter=bottleneck(layer.adapter),
        low_rank=low_rank(layer.low_rank),
    )


def _stacked(layers: Sequence[LayerPrompt]) -> LayerPrompt:
    if len(layers) == 1:
        return layers[0]  # leading axes of size one broadcast over images
    extra, seen = _extra([layer.extra for layer in layers if layer.extra is not None])
    branches = [layer.branch for layer in layers if layer.branch is not None]
    return LayerPrompt(
        tokens=_rows([layer.tokens for layer in layers if layer.tokens is not None]),
        extra=extra,
        seen=seen,
        branch=KeyValue(*(torch.cat(parts) for parts in zip(*branches, strict=True))) if branches else None,
        temperature=_scalars([layer.temperature for layer in layers if layer.temperature is not None], 4),
        gate=_scalars([layer.gate for layer in layers if layer.gate is not None], 3),
        value_bias=_rows([layer.value_bias[None] for layer in layers if layer.value_bias is not None]),
        queries=_rows([layer.queries for layer in layers if layer.queries is not None]),
        adapter=_adapter([layer.adapter for layer in layers if layer.adapter is not None]),
        low_rank=_low_rank([layer.low_rank for layer in layers if layer.low_rank is not None]),
    )


def _rows(tokens: Sequence[Tensor]) -> Tensor | None:
    return torch.cat([each if each.ndim == 3 else each[None] for each in tokens]) if tokens else None


def _adapter(adapters: Sequence[Adapter]) -> Adapter | None:
    if not adapters:
        return None
    return Adapter(
        torch.stack([each.down for each in adapters]),
        torch.stack([each.down_bias[None] for each in adapters]),
        torch.stack([each.up for each in adapters]),
        torch.stack([each.up_bias[None] for each in adapters]),
        adapters[0].after,
    )


def _low_rank(updates: Sequence[LowRank]) -> LowRank | None:
    if not updates:
        return None
    return LowRank(torch.stack([each.down for each in updates]), torch.stack([each.up for each in updates]))


def _scalars(values: Sequence[Tensor], axes: int) -> Tensor | None:
    return torch.cat([value.reshape(-1, *[1] * (axes - 1)) for value in values]) if values else None


def _extra(pairs: Sequence[KeyValue]) -> tuple[KeyValue | None, Tensor | None]:
    """Keys and values (T, heads, longest, head_dim), and a mask of the valid ones (T, longest) unless all are valid."""
    if not pairs:
        return None, None
    counts = [pair.key.shape[2] for pair in pairs]
    longest = max(counts)
    if not longest:
        return None, None
    padded = [
        torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])
        for parts in zip(*pairs, strict=True)
    ]
    if min(counts) == longest:
        return KeyValue(*padded), None
    real = [count for count, pair in zip(counts, pairs, strict=True) for _ in range(pair.key.shape[0])]
    places = torch.arange(longest, device=padded[0].device)
    return KeyValue(*padded), places[None] < torch.tensor(real, device=places.device)[:, None]


def _picked(layer: LayerPrompt, tasks: Tensor) -> LayerPrompt:
    """Select the entries of each image's task; single entries are broadcast."""

    def pick(values: Tensor, axes: int) -> Tensor:
        return values if values.ndim < axes or values.shape[0] == 1 else values.index_select(0, tasks)

    return _each(layer, pick)
