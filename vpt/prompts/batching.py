"""What the prompts of several tasks do, stacked, so that every image of a batch may belong to another task."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpt.backbones.block import KeyValue
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step


def shape_of(steps: Sequence[Step], layers: Sequence[LayerPrompt] | None) -> Hashable:
    """What two prompts must have in common to go through the backbone together.

    Extra keys may differ in number, for they can be hidden; rows of the sequence may not. A prompt with a function
    or a mask of its own goes alone.

    >>> shape_of([], None) == shape_of([], None)
    True
    """
    if layers is None:
        return tuple(steps)
    if any(layer.adapt is not None or layer.seen is not None for layer in layers):
        return (id(layers), "alone")
    ports = tuple(
        (
            None if layer.tokens is None else layer.tokens.shape[-2],
            layer.extra is not None,
            None if layer.branch is None else layer.branch.key.shape[2],
            layer.temperature is not None,
            layer.gate is not None,
        )
        for layer in layers
    )
    return (tuple(steps), ports)


@dataclass(frozen=True)
class Stack:
    """Prompts of tasks that share a shape; leading axes count tasks."""

    layers: tuple[LayerPrompt, ...] | None

    def of(self, tasks: Tensor) -> list[LayerPrompt] | None:
        """What the prompts do for a batch of images that belong to `tasks` (B,)."""
        return None if self.layers is None else [_picked(layer, tasks) for layer in self.layers]


def stack(prompts: Sequence[Sequence[LayerPrompt] | None]) -> Stack:
    """Stack the prompts of tasks; they have one shape, see `shape_of`.

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
    """All tensors of a layer changed, each given with the number of axes it has when every image has its own."""

    def one(values: Tensor | None, axes: int) -> Tensor | None:
        return None if values is None else change(values, axes)

    def pair(values: KeyValue | None) -> KeyValue | None:
        return None if values is None else KeyValue(change(values.key, 4), change(values.value, 4))

    return LayerPrompt(
        tokens=one(layer.tokens, 3),
        extra=pair(layer.extra),
        seen=one(layer.seen, 2 if layer.seen is None else layer.seen.ndim),
        adapt=layer.adapt,
        branch=pair(layer.branch),
        temperature=one(layer.temperature, 4),
        gate=one(layer.gate, 3),
    )


def _stacked(layers: Sequence[LayerPrompt]) -> LayerPrompt:
    if len(layers) == 1:
        return layers[0]  # leading axes of size one serve any number of images
    extra, seen = _extra([layer.extra for layer in layers if layer.extra is not None])
    branches = [layer.branch for layer in layers if layer.branch is not None]
    return LayerPrompt(
        tokens=_rows([layer.tokens for layer in layers if layer.tokens is not None]),
        extra=extra,
        seen=seen,
        branch=KeyValue(*(torch.cat(parts) for parts in zip(*branches, strict=True))) if branches else None,
        temperature=_scalars([layer.temperature for layer in layers if layer.temperature is not None], 4),
        gate=_scalars([layer.gate for layer in layers if layer.gate is not None], 3),
    )


def _rows(tokens: Sequence[Tensor]) -> Tensor | None:
    return torch.cat([each if each.ndim == 3 else each[None] for each in tokens]) if tokens else None


def _scalars(values: Sequence[Tensor], axes: int) -> Tensor | None:
    return torch.cat([value.reshape(-1, *[1] * (axes - 1)) for value in values]) if values else None


def _extra(pairs: Sequence[KeyValue]) -> tuple[KeyValue | None, Tensor | None]:
    """Keys and values (T, heads, longest, head_dim), and which are real (T, longest), unless all are."""
    if not pairs:
        return None, None
    counts = [pair.key.shape[2] for pair in pairs]
    longest = max(counts)
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
    """The entries of each image's task; what there is only one of serves them all."""

    def pick(values: Tensor, axes: int) -> Tensor:
        return values if values.ndim < axes or values.shape[0] == 1 else values.index_select(0, tasks)

    return _each(layer, pick)
