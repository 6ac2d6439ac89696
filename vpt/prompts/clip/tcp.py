"""TCP: context tokens, and class tokens from the frozen features of each class (Yao et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.text_tower import encode
from vpt.config import KgcoopPrompt
from vpt.config.prompts_clip import TcpPrompt
from vpt.prompts.clip.learners import Kgcoop, Learner, encoder_of
from vpt.prompts.clip.text_context import Contexts
from vpt.utils.errors import UserError


class Tcp:
    """Builds TCP; see learners.py."""

    @staticmethod
    def build(config: TcpPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """A context of all classes, and the network."""
        return Learner(contexts=ClassTokens(config, encoder_of(backbone), classes, backbone.feature_width("native")))

    @staticmethod
    def skeleton(config: TcpPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See learners.py."""
        made = Kgcoop.skeleton(KgcoopPrompt(tokens=config.tokens), backbone, classes)
        contexts: Any = made.contexts
        width = encoder_of(backbone).require_tower("learned context").width
        contexts.network = network(config, backbone.feature_width("native"), width)
        return made


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Tensors of any shape."""
        return x * torch.sigmoid(1.702 * x)


def network(config: TcpPrompt, features: int, width: int) -> nn.Sequential:
    """From features (K, D) to tokens (K, M * C)."""
    hidden = config.width
    return nn.Sequential(nn.Linear(features, hidden), QuickGelu(), nn.Linear(hidden, config.tokens * width))


class ClassTokens(Contexts):
    """CoOp's context, whose tokens are replaced before `config.layer` by those of the class.

    Parameters: M C + D h + h + h M C + M C, for a network of hidden width h.
    """

    fixed: Tensor

    def __init__(self, config: TcpPrompt, encoder: TextEncoder, names: Sequence[str], features: int) -> None:
        super().__init__(encoder, names, config.tokens, config.words)
        tower = encoder.require_tower("learned context")
        if config.layer >= len(tower.blocks):
            raise UserError(f"prompt.layer={config.layer}: the text tower has {len(tower.blocks)} layers, from 0")
        self.layer = config.layer
        self.network = network(config, features, tower.width)
        self.register_buffer("fixed", torch.zeros(0), persistent=False)

    def read_templates(
        self, names: Sequence[str], templates: Sequence[str], fixed: Tensor, raw: Callable[[], Tensor]
    ) -> None:
        """Keep the features of the classes."""
        self.fixed = fixed

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """See Texts.forward."""
        encoder: TextEncoder = self.__dict__["encoder"]
        tokens = self.network(self.fixed).unflatten(1, (self.count, -1))
        tower = encoder.require_tower("learned context")
        return encode(tower, self.rows(), self.ends, self.shared, own={self.layer: tokens})
