"""VFPT: some prompt tokens pass through a Fourier transform (Zeng et al. 2024, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vpt.backbones.liveness import After
from vpt.config import VfptPrompt
from vpt.prompts.base import Shape, set_per_layer
from vpt.prompts.visual.vpt import VisualPrompts


class FourierPrompts(VisualPrompts):
    """VPT whose first tokens are replaced by the real part of their two-dimensional Fourier transform over tokens and
    channels, without normalisation.

    Args:
        share: fraction of the tokens that are transformed, rounded down to a number of tokens. Zero is VPT.

    The other arguments are those of VisualPrompts. There are no parameters in addition to VPT's.

    >>> shape = Shape(depth=1, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> FourierPrompts(shape, {0: 0}, tokens=5, share=0.5).fourier
    2
    """

    def __init__(
        self,
        shape: Shape,
        inserted: Mapping[int, int],
        tokens: int,
        share: float = 0.5,
        dropout: float = 0.0,
        project: int | None = None,
        after: After = "carry",
    ) -> None:
        super().__init__(shape, inserted, tokens, dropout, project, after)
        self.fourier = math.floor(share * tokens)

    @classmethod
    def from_config(cls, config: VfptPrompt, shape: Shape) -> FourierPrompts:
        """The prompt of `prompt=vfpt`."""
        return cls(shape, set_per_layer(config.layers, shape), config.tokens, config.fourier, config.dropout)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets, each (P, C) or (batch, P, C); dropout is applied before the transform."""
        return [
            torch.cat([transformed(tokens[..., : self.fourier, :]), tokens[..., self.fourier :, :]], dim=-2)
            for tokens in super().sets(batch)
        ]


def transformed(tokens: Tensor) -> Tensor:
    """Real part of the Fourier transform of tokens (..., F, C) over both axes.

    >>> transformed(torch.ones(2, 4)).tolist()
    [[8.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if tokens.shape[-2] == 0:
        return tokens
    # Half precision has no transform of odd lengths, and none at all on a CPU.
    return torch.fft.fft2(tokens.float()).real.to(tokens.dtype)
