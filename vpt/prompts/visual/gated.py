"""Gated prompt tuning: shallow prompts with a gate after each layer (Yoo et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import GatedPrompt
from vpt.prompts.base import Shape
from vpt.prompts.visual.vpt import VisualPrompts

TEMPERATURES = (0.01, 10.0)


class GatedPrompts(VisualPrompts):
    """VPT-Shallow with a gate after every layer but the last, and a learnable attention temperature in every layer.

    A gate g blends the prompt outputs of a layer with its prompt inputs, g out + (1 - g) in. Attention scores of all
    tokens and heads of a layer are divided by its temperature, which is clamped to 0.01..10 after every step.

    Args:
        shape: shape of the backbone.
        tokens: number of prompts P.
        gate: negative initial logit of the gates; at 5 a layer changes its prompts by less than 1%.
        temperature: learn temperatures; otherwise they are one.
        dropout: dropout on prompt values, with a mask for every image.

    Parameters: P*C + (L-1) + L.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in GatedPrompts(shape, tokens=100).parameters())
    76823
    """

    def __init__(
        self, shape: Shape, tokens: int, gate: float = 5.0, temperature: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(shape, {0: 0}, tokens, dropout)
        self.gates = nn.Parameter(torch.full((shape.depth - 1,), -gate))
        self.temperatures = nn.Parameter(torch.ones(shape.depth), requires_grad=temperature)

    @classmethod
    def from_config(cls, config: GatedPrompt, shape: Shape) -> GatedPrompts:
        """The prompt of `prompt=gated`."""
        return cls(shape, config.tokens, config.gate, config.temperature, config.dropout)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Add the gate and the temperature of the layer."""
        gate: Tensor | None = self.gates[layer].sigmoid() if layer < len(self.gates) else None
        return replace(plain, gate=gate, temperature=self.temperatures[layer])

    @torch.no_grad()
    def constrain(self) -> None:
        """See TokenPrompts.constrain. A clamp in the forward pass would give no gradient beyond its limits."""
        self.temperatures.clamp_(*TEMPERATURES)
