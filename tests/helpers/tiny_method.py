"""A tiny token method that uses every hook, as a plug-in: `tests.helpers.tiny_method:TinyPrompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vpt.config import TokenPrompt
from vpt.prompts.base import Shape, TokenPrompts, TrainingImages, set_per_layer

NAME = "tests.helpers.tiny_method:TinyPrompt"
calls: list[tuple[Any, ...]] = []  # of hooks, in order
stop_at: list[int] = []  # after how many more steps the process dies


class TinyPrompts(TokenPrompts):
    training_only = ("teacher", "scale")

    def __init__(self, shape: Shape, config: TinyPrompt) -> None:
        super().__init__(set_per_layer("all", shape))
        self.tokens = nn.Parameter(0.02 * torch.randn(shape.depth, config.tokens, shape.width))
        self.teacher = nn.Linear(shape.width, 3)
        self.scale = nn.Parameter(torch.ones(()))
        self.weight = 0.0
        self.full = config.weight

    def sets(self, batch: int) -> Sequence[Tensor]:
        return self.tokens.unbind(0)

    def initialize(self, config: Any, data: TrainingImages) -> None:
        calls.append(("initialize", data.images, data.labels))
        self.tokens.add_(data.images[0].mean())

    def before_epoch(self, epoch: int, epochs: int) -> None:
        calls.append(("before_epoch", epoch, epochs))
        self.weight = self.full * (epoch + 1) / epochs

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        calls.append(("extra_losses", images, labels))
        told = self.teacher(self.tokens.mean((0, 1))) * self.scale
        return {"teacher": self.weight * told.square().sum(), "size": self.weight * self.tokens.square().sum()}

    def after_step(self) -> None:
        super().after_step()
        if stop_at:
            stop_at[0] -= 1
            if stop_at[0] == 0:
                raise KeyboardInterrupt


class TinyPrompt(TokenPrompt):
    tokens: int = Field(2, ge=1, le=100, description="prompt tokens per layer")
    weight: float = Field(0.5, ge=0, le=100, description="of the extra losses in the last epoch")
    from_images: bool = Field(True, description="start from images")

    @property
    def needs_images(self) -> bool:
        return self.from_images

    def build(self, shape: Shape) -> TinyPrompts:
        return TinyPrompts(shape, self)
