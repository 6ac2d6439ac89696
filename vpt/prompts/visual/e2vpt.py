"""E2VPT: key-value prompts in addition to prompt tokens, and masks for pruning (Han et al. 2023).

The pruning itself, which needs the trained prompts and data, is in training/e2vpt_pruning.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block, KeyValue, join
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import E2vptPrompt
from vpt.prompts.base import Shape, set_per_layer
from vpt.prompts.visual.vpt import VisualPrompts

SEGMENTS = 16  # parts of a token that are pruned as a whole


class EffectivePrompts(VisualPrompts):
    """VPT with additional prompts among the keys and values of every prompted layer (section 3.2), and with masks over
    tokens and over segments of tokens, shared by all layers (section 3.3).

    Masks are ones until pruning sets some to zero; they are not trained. Pruned tokens remain in the sequence as zeros,
    as in the paper's experiments; a file contains only the remaining values. A segment is a range of channels here, and
    every sixteenth channel in the released code.

    Args:
        kv_tokens: number of key-value prompts M of a layer, each with a separate value for each head.
        share_kv: use one tensor as keys and values.

    The other arguments are those of VisualPrompts. Parameters: L*P*C, and L*M*C or twice that.

    >>> shape = Shape(depth=2, width=32, heads=2, patch=(4, 4), grid=(2, 2))
    >>> prompt = EffectivePrompts(shape, {0: 0, 1: 1}, tokens=3, kv_tokens=5)
    >>> sum(parameter.numel() for parameter in prompt.parameters()) == 2 * 3 * 32 + 2 * 5 * 32
    True
    """

    token_mask: Tensor
    segment_mask: Tensor

    def __init__(
        self,
        shape: Shape,
        inserted: Mapping[int, int],
        tokens: int,
        kv_tokens: int = 5,
        share_kv: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(shape, inserted, tokens, dropout)
        self.segments = SEGMENTS if shape.width % SEGMENTS == 0 else math.gcd(SEGMENTS, shape.width)
        head = shape.width // shape.heads
        self.keys_values = nn.Parameter(torch.empty(len(inserted), 1 if share_kv else 2, shape.heads, kv_tokens, head))
        bound = math.sqrt(6.0 / (kv_tokens * head))  # Kaiming uniform of a tensor (heads, M, head)
        nn.init.uniform_(self.keys_values, -bound, bound)
        self.register_buffer("token_mask", torch.ones(tokens))
        self.register_buffer("segment_mask", torch.ones(tokens, self.segments))

    @classmethod
    def from_config(cls, config: E2vptPrompt, shape: Shape) -> EffectivePrompts:
        """The prompt of `prompt=e2vpt`."""
        inserted = set_per_layer(config.layers, shape)
        return cls(shape, inserted, config.tokens, config.kv_tokens, config.share_kv, config.dropout)

    def mask(self, width: int) -> Tensor:
        """Mask that every token set is multiplied by, (P, C)."""
        return self.token_mask[:, None] * self.segment_mask.repeat_interleave(width // self.segments, dim=1)

    def packed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State with tokens (L, remaining values) if any are pruned, and masks as bytes."""
        left = self.mask(self.tokens.shape[-1]) > 0
        if bool(left.all()):
            return state
        masks = {name: state[name].to(torch.uint8) for name in ("token_mask", "segment_mask")}
        return {**state, **masks, "tokens": state["tokens"][:, left]}

    def unpacked(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State with tokens (L, P, C), zero where they are pruned."""
        tokens, token_mask, segment_mask = (state.get(name) for name in ("tokens", "token_mask", "segment_mask"))
        if tokens is None or token_mask is None or segment_mask is None or tokens.ndim != 2:
            return state
        if token_mask.shape != self.token_mask.shape or segment_mask.shape != self.segment_mask.shape:
            return state
        width = self.tokens.shape[-1]
        masks = {"token_mask": token_mask.bool(), "segment_mask": segment_mask.bool()}
        left = masks["token_mask"][:, None] & masks["segment_mask"].repeat_interleave(width // self.segments, dim=1)
        if tokens.shape != (len(self.tokens), int(left.sum())):
            return state
        whole = tokens.new_zeros(self.tokens.shape)
        whole[:, left] = tokens
        return {**state, **{name: mask.to(tokens.dtype) for name, mask in masks.items()}, "tokens": whole}

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Masked token sets, each (P, C) or (batch, P, C)."""
        return [tokens * self.mask(tokens.shape[-1]) for tokens in super().sets(batch)]

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Add the key-value prompts of a prompted layer, without norm and projection."""
        if layer not in self.inserted:
            return plain
        pair = self.keys_values[self.inserted[layer]]
        mine = KeyValue(pair[:1], pair[-1:])
        return replace(plain, extra=mine if plain.extra is None else join(mine, plain.extra))
