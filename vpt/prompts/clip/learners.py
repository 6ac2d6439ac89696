"""Prompt learners for CLIP: create the image prompts and the learned context of each method from its settings.

`skeleton` creates only parameters of the same names and shapes, on the meta device, so that a file is checked before
memory of its size is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.text_tower import TextTower
from vpt.config import CocoopPrompt, CoopPrompt, IvlpPrompt, KgcoopPrompt, MaplePrompt, TptPrompt
from vpt.prompts.base import TokenPrompts
from vpt.prompts.clip.text_context import Contexts, meta_net, start_context
from vpt.prompts.clip.vision import ClipVisionPrompts, CoupledPrompts
from vpt.utils.errors import UserError


@dataclass
class Learner:
    """The learnable parts of a method for a CLIP.

    Args:
        vision: prompts of the image tower, or None.
        contexts: the learned context of class names, a `Contexts`; None if the texts are those of the templates.
        chunk: number of images whose texts are computed at once, if texts depend on the image.
    """

    vision: TokenPrompts | None = None
    contexts: nn.Module | None = None
    chunk: int | None = None


class Coop:
    """CoOp."""

    @staticmethod
    def build(config: CoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """One context for all classes, or one for each."""
        encoder = encoder_of(backbone)
        return Learner(
            contexts=Contexts(encoder, classes, config.tokens, config.words, config.position, config.class_specific)
        )

    @staticmethod
    def skeleton(config: CoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        return Learner(contexts=_context(backbone, len(classes) if config.class_specific else 1, config.tokens))


class Kgcoop:
    """KgCoOp: the context is CoOp's; its regularisation is in training/regularizers.py."""

    @staticmethod
    def build(config: KgcoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """One context for all classes."""
        return Learner(contexts=Contexts(encoder_of(backbone), classes, config.tokens, config.words))

    @staticmethod
    def skeleton(config: KgcoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        return Learner(contexts=_context(backbone, 1, config.tokens))


class Cocoop:
    """CoCoOp."""

    @staticmethod
    def build(config: CocoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """A context, and a network that shifts it depending on the image features."""
        width = backbone.feature_width("native")
        contexts = Contexts(encoder_of(backbone), classes, config.tokens, config.words, condition=width)
        return Learner(contexts=contexts, chunk=config.chunk)

    @staticmethod
    def skeleton(config: CocoopPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        contexts: Any = _context(backbone, 1, config.tokens)
        contexts.meta = meta_net(backbone.feature_width("native"), _text(backbone).width)
        return Learner(contexts=contexts)


class Tpt:
    """TPT: the context is tuned for every test image, see heads/tpt.py, so it is not stored."""

    @staticmethod
    def build(config: TptPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """A context that is not trained."""
        contexts = Contexts(encoder_of(backbone), classes, config.tokens, config.words)
        return Learner(contexts=contexts.requires_grad_(False))

    @staticmethod
    def skeleton(config: TptPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        return Learner()


class Maple:
    """MaPLe."""

    @staticmethod
    def build(config: MaplePrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """Text prompts in several layers, and image prompts that are linear projections of them."""
        tower, encoder = backbone.require_tower("token prompts"), encoder_of(backbone)
        vision = CoupledPrompts(tower, start_context(encoder, config.depth, config.tokens, config.words))
        contexts = Contexts(encoder, classes, config.tokens, config.words, depth=config.depth, tokens=vision.tokens)
        return Learner(vision, contexts)

    @staticmethod
    def skeleton(config: MaplePrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        tokens = torch.empty(config.depth, config.tokens, _text(backbone).width)
        return Learner(CoupledPrompts(backbone.require_tower("token prompts"), tokens))


class Ivlp:
    """IVLP, and PromptSRC, whose losses are in training/regularizers.py."""

    @staticmethod
    def build(config: IvlpPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """Prompts in several layers of both towers."""
        made = Learner(_vision(config, backbone))
        if config.text_tokens:
            made.contexts = Contexts(
                encoder_of(backbone), classes, config.text_tokens, config.words, depth=config.text_depth
            )
        return made

    @staticmethod
    def skeleton(config: IvlpPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See the module."""
        vision = _vision(config, backbone)
        if not config.text_tokens:
            return Learner(vision)
        return Learner(vision, _context(backbone, config.text_depth, config.text_tokens, config.text_depth))


def _vision(config: IvlpPrompt, backbone: Backbone) -> ClipVisionPrompts | None:
    if not config.tokens:
        return None
    return ClipVisionPrompts(backbone.require_tower("token prompts"), config.tokens, config.depth)


def _context(backbone: Backbone, sets: int, count: int, depth: int = 1) -> nn.Module:
    """Context parameter (sets, count, C) for `depth` layers."""
    text = _text(backbone)
    if depth > len(text.blocks):
        raise UserError(f"prompt.text_depth={depth}: the text tower has {len(text.blocks)} layers")
    contexts = nn.Module()
    contexts.tokens = nn.Parameter(torch.empty(sets, count, text.width))
    return contexts


def _text(backbone: Backbone) -> TextTower:
    return encoder_of(backbone).require_tower("learned context")


def encoder_of(backbone: Backbone) -> TextEncoder:
    """The text encoder of a CLIP.

    Raises:
        UserError: the backbone was loaded without it.
    """
    if backbone.text is None:
        raise UserError(f"backbone {backbone.name} was loaded without its text tower")
    return backbone.text
