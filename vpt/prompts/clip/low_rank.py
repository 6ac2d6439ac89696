"""CLIP-LoRA: low-rank updates of queries, keys and values in both towers (Zanella and Ben Ayed 2024, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.low_rank import LowRank, with_low_rank
from vpt.backbones.text_encoder import TextEncoder
from vpt.config.prompts_clip import ClipLoraPrompt
from vpt.prompts.base import TokenPrompts
from vpt.prompts.clip.learners import Learner, encoder_of
from vpt.prompts.clip.text_context import TemplateTexts


class ClipLora:
    """Builds CLIP-LoRA; see learners.py."""

    @staticmethod
    def build(config: ClipLoraPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """Matrices of both towers."""
        vision = LowRankPrompts(config, *_sides(backbone))
        return Learner(vision, LowRankTexts(config, encoder_of(backbone)))

    @staticmethod
    def skeleton(config: ClipLoraPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See learners.py."""
        return ClipLora.build(config, backbone, classes)


def _sides(backbone: Backbone) -> tuple[int, int]:
    tower = backbone.require_tower("low-rank updates")
    return len(tower.blocks), tower.width


class Updates(nn.Module):
    """`down` (L, 3, C, r), Kaiming uniform with a = sqrt(5), and `up` (L, 3, r, C), zero at first.

    Parameters: 6 L r C.
    """

    def __init__(self, config: ClipLoraPrompt, layers: int, width: int) -> None:
        super().__init__()
        self.config = config
        bound = 1 / math.sqrt(width)
        self.down = nn.Parameter(torch.empty(layers, 3, width, config.rank).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(layers, 3, config.rank, width))

    def of(self, layer: int) -> LowRank:
        """The updates of a layer; their product is multiplied by alpha / sqrt(rank), as in the released code."""
        scale = self.config.alpha / math.sqrt(self.config.rank)
        return LowRank(self.down[layer], scale * self.up[layer], self.config.dropout if self.training else 0.0)


class LowRankPrompts(TokenPrompts):
    """No tokens, but low-rank updates in every layer of the image tower."""

    def __init__(self, config: ClipLoraPrompt, layers: int, width: int) -> None:
        super().__init__({})
        self.updates = Updates(config, layers, width)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """No tokens."""
        return ()

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """The updates of a layer."""
        return replace(plain, low_rank=self.updates.of(layer))


class LowRankTexts(TemplateTexts):
    """Text features of the head's templates, by a text tower with low-rank updates.

    In training the dropout of leading tokens that are equal in all texts is drawn once for all of them.

    Args:
        config: settings.
        encoder: a CLIP's text encoder; not a submodule of this module.
    """

    def __init__(self, config: ClipLoraPrompt, encoder: TextEncoder) -> None:
        super().__init__(encoder, "low-rank updates")
        self.updates = Updates(config, len(self.tower.blocks), self.tower.width)

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """See Texts.forward."""
        tower = self.tower
        blocks = tuple(with_low_rank(block, self.updates.of(layer)) for layer, block in enumerate(tower.blocks))
        return self.encoded(replace(tower, blocks=blocks))
