"""What a prompt does in one layer of a frozen transformer: the interface between prompts and the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from vpt.backbones.block import Adapter, Beside, KeyValue
from vpt.backbones.low_rank import LowRank


@dataclass(frozen=True)
class LayerPrompt:
    """What a prompt does in one layer. All fields are optional; leading axes of size 1 are broadcast over the batch.

    Args:
        tokens: fresh prompt tokens (P, C) or (B, P, C) that join the sequence, replacing those carried from below.
        extra: keys and values seen by every query in addition to those of the tokens. Prompt tokens whose outputs are
            not read are passed this way: their keys and values do not depend on the image.
        seen: key mask, True to attend, over the keys of `extra` followed by those of the prompt tokens in the sequence:
            per image (B, P), or per image token (B, N, P), class and register tokens first; None for all. Keys beyond
            it are attended to, and prompt tokens attend to all.
        weigh: function from image tokens (B, N, C), class and register tokens first, to factors (B, N, P) of their
            attention weights on the first P keys, `extra` followed by prompt tokens, after the softmax.
        adapt: function from image tokens (B, N, C), class and register tokens first, to fresh prompt tokens (B, P, C)
            for each image.
        carry: function from the prompt outputs of the layer below (B, P, C) to the tokens that enter this layer.
        beside: function from image tokens (B, N, C) and the layer's rotary embedding to keys and values of a second
            attention, which is mixed with that of the layer.
        added: function from image tokens (B, N, C), the layer's rotary embedding, and which of these tokens are read
            (a slice, or None for all), to what is added to the layer's outputs of those, (B, M, C), or None.
        branch: keys and values for cross-attention after self-attention, with the layer's own weights.
        temperature: divides the attention scores of the whole layer; a scalar or (B, 1, 1, 1).
        gate: fraction of a prompt token's output that is carried to the next layer, the rest being its input to this
            layer; a scalar or (B, 1, 1).
        value_bias: added to the values of all tokens and prompts; (C,) or (B, 1, C).
        adapter: a bottleneck beside or after the MLP, for all tokens.
        low_rank: updates of the queries, keys and values of all tokens.
        queries: tokens (T, C) or (B, T, C) that attend to the image tokens entering the layer and to nothing else;
            their outputs are features for the head.
        entering: called with the image tokens (B, N, C) that enter the layer, for a loss in training.
        leaving: called with the image tokens whose output is read, (B, M, C).
    """

    tokens: Tensor | None = None
    extra: KeyValue | None = None
    seen: Tensor | None = None
    weigh: Callable[[Tensor], Tensor] | None = None
    adapt: Callable[[Tensor], Tensor] | None = None
    carry: Callable[[Tensor], Tensor] | None = None
    beside: Callable[[Tensor, Tensor | None], Beside] | None = None
    added: Callable[[Tensor, Tensor | None, slice | None], Tensor | None] | None = None
    branch: KeyValue | None = None
    temperature: Tensor | None = None
    gate: Tensor | None = None
    value_bias: Tensor | None = None
    adapter: Adapter | None = None
    low_rank: LowRank | None = None
    queries: Tensor | None = None
    entering: Callable[[Tensor], None] | None = None
    leaving: Callable[[Tensor], None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the prompt does nothing in the layer."""
        return all(value is None for value in vars(self).values())


NOTHING = LayerPrompt()


def lowest_prompted(layers: Sequence[LayerPrompt] | None, depth: int) -> int:
    """The lowest of `depth` layers in which a prompt does something; the last one if it does nothing.

    >>> import torch
    >>> lowest_prompted([NOTHING, LayerPrompt(gate=torch.ones(1))], 2)
    1
    """
    return next((n for n, each in enumerate(layers or ()) if not each.is_empty), max(0, depth - 1))
