"""ViaPT: prompts that depend on the image, of which principal components are carried upwards (Xiao et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import ViaptPrompt
from vpt.prompts.base import Shape, TokenPrompts, TrainingImages, dropped


class InstancePrompts(TokenPrompts):
    """Before the first layer: tokens drawn from a Gaussian whose mean and standard deviation an encoder computes from
    the image, and tokens that are the same for all images. In every other layer the first channels of a token are
    principal components of its output in the layer below, the others are learned and the same in all layers.

    Outside training the draw is always the same one. Principal components are those of the patch tokens of training
    images in all layers, computed once, so that a prediction does not depend on the other images of its batch.

    Args:
        config: settings. `kept=0` is VPT-Deep with the same tokens in all layers but the first, `kept=1` VPT-Shallow.
        shape: shape of the backbone.

    Parameters: 3Ch + 9hh + 2h + 2C of the encoder, PC + (P + m)(C - d) with m tokens of the image, d channels carried.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in InstancePrompts(ViaptPrompt(), shape).parameters())
    1187840
    """

    any_size = False
    noise: Tensor  # (m, C) the draw outside training
    centre: Tensor  # (C,)
    basis: Tensor  # (C, d)

    def __init__(self, config: ViaptPrompt, shape: Shape) -> None:
        super().__init__({0: 0})
        self.config, self.shape, self.width = config, shape, shape.width
        hidden, carried = config.width, round(config.kept * shape.width)
        self.encoder = nn.Sequential(
            nn.Conv2d(shape.width, hidden, 1), nn.GELU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.GELU()
        )
        self.gaussian = nn.Linear(hidden, 2 * shape.width)
        self.tokens = nn.Parameter(torch.empty(config.tokens, shape.width))
        self.tail = nn.Parameter(torch.empty(config.instance_tokens + config.tokens, shape.width - carried))
        for each in (self.tokens, self.tail):
            nn.init.trunc_normal_(each, std=0.02)
        draw = torch.randn(
            config.instance_tokens, shape.width, generator=torch.Generator().manual_seed(0), device="cpu"
        )
        self.register_buffer("noise", draw)
        if 0 < carried < shape.width:
            self.register_buffer("centre", torch.zeros(shape.width))
            self.register_buffer("basis", torch.eye(shape.width)[:, :carried].clone())

    @torch.no_grad()
    def initialize(self, config: ViaptPrompt, data: TrainingImages) -> None:
        """Compute principal components of the patch tokens that enter the layers above the first."""
        layers = range(1, self.shape.depth)
        if layers and self.tail.shape[1] not in (0, self.width):
            rows = torch.cat([tokens.flatten(0, 1) for tokens in data.entering(layers).values()])
            self.centre.copy_(rows.float().mean(0))
            self.basis.copy_(principal(rows, self.basis.shape[1]))

    def sets(self, batch: int) -> Sequence[Tensor]:
        """None that is the same for all images."""
        return ()

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Tokens are computed from the image before the first layer, from those of the layer below in all others."""
        return replace(plain, carry=self.carried) if layer else replace(plain, adapt=self.entering)

    def entering(self, rows: Tensor) -> Tensor:
        """Tokens (B, m + P, C) of the first layer, from its input image tokens (B, N, C)."""
        patches = rows[:, self.shape.prefix :].to(self.tokens.dtype)
        maps = patches.transpose(1, 2).unflatten(2, self.shape.grid)
        mean, log_std = self.gaussian(self.encoder(maps).mean((2, 3))).float().chunk(2, dim=-1)
        noise = torch.randn(rows.shape[0], *self.noise.shape, device=rows.device) if self.training else self.noise
        drawn = mean[:, None] + noise * log_std.clamp(-5, 2).exp()[:, None]
        fixed = dropped(self.tokens[None], self.config.dropout, rows.shape[0], self.training)[0]
        return torch.cat([drawn, fixed.expand(rows.shape[0], -1, -1).to(drawn.dtype)], dim=1)

    def carried(self, outputs: Tensor) -> Tensor:
        """Tokens of a layer, from their outputs in the layer below (B, m + P, C)."""
        tail = self.tail.expand(outputs.shape[0], -1, -1)
        if tail.shape[2] in (0, self.width):
            return tail if tail.shape[2] else outputs
        return torch.cat([(outputs.to(tail.dtype) - self.centre) @ self.basis, tail], dim=2)


def principal(rows: Tensor, count: int) -> Tensor:
    """The first principal components (C, count) of rows (N, C); the largest value of each is positive.

    >>> principal(torch.tensor([[0.0, 3.0], [0.0, -3.0]]), 1).flatten().tolist()
    [0.0, 1.0]
    """
    basis = torch.linalg.eigh(torch.cov(rows.double().T)).eigenvectors.flip(1)[:, :count]
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return (basis * largest.sign()).to(rows.dtype)
