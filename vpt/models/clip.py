"""From the configuration to the two sides of a prompted CLIP: prompts among the image rows, and the zero-shot head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.text_encoder import TextEncoder
from vpt.config import (
    ClipPrompt,
    CocoopPrompt,
    CoopPrompt,
    IvlpPrompt,
    KgcoopPrompt,
    MaplePrompt,
    PromptsrcPrompt,
    RunConfig,
    TipHead,
    TptPrompt,
    ZeroShotHead,
)
from vpt.data.datasets.dassl import template_of
from vpt.heads.tip_adapter import TipAdapter
from vpt.heads.zero_shot import ZeroShot
from vpt.prompts.base import TokenPrompts
from vpt.prompts.clip.templates import read_templates
from vpt.prompts.clip.text_context import Contexts, meta_net, start_context
from vpt.prompts.clip.vision import ClipVisionPrompts, CoupledPrompts
from vpt.utils.errors import UserError

SOURCE_TEMPLATES = 60  # of CLIP's eighty, whose mean PromptSRC holds its text features to


def build_zero_shot(config: RunConfig, backbone: Backbone, classes: Sequence[str]) -> ZeroShot:
    """The zero-shot head of fixed templates, with a cache of training images if asked for.

    Raises:
        UserError: templates that cannot be read.
    """
    assert isinstance(config.head, ZeroShotHead)
    encoder, templates = _encoder(backbone), templates_of(config)
    if isinstance(config.head, TipHead):
        mix = (config.head.first_alpha, config.head.first_beta)
        return TipAdapter(encoder, backbone.fingerprint, classes, templates, config.head.finetune, mix)
    return ZeroShot(encoder, backbone.fingerprint, classes, templates)


def templates_of(config: RunConfig) -> tuple[str, ...]:
    """The templates of a run: those asked for, or the one that was written for its data."""
    assert isinstance(config.head, ZeroShotHead)
    own = template_of(config.data.path) if config.head.templates == "auto" else None
    return (own,) if own is not None else read_templates(config.head.templates)


def build_learner(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | None, ZeroShot]:
    """The prompts of the image tower, if there are any, and the head with its learned context.

    Raises:
        UserError: a head that does not fit, a tower that takes no prompts, or class names that are too long.
    """
    prompt = config.prompt
    assert isinstance(prompt, ClipPrompt)
    if not isinstance(config.head, ZeroShotHead) or isinstance(config.head, TipHead):
        raise UserError(f"prompt={prompt.kind} learns among the words of class names; set head=zeroshot")
    encoder = _encoder(backbone)
    if isinstance(prompt, PromptsrcPrompt):
        import open_clip

        some = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES][:SOURCE_TEMPLATES]
        head = ZeroShot(encoder, backbone.fingerprint, classes, some, each_normal=False)
    else:
        head = build_zero_shot(config, backbone, classes)
    vision: TokenPrompts | None = None
    match prompt:
        case CoopPrompt():
            head.contexts = Contexts(
                encoder, classes, prompt.tokens, prompt.words, prompt.position, prompt.class_specific
            )
        case KgcoopPrompt():
            head.contexts = Contexts(encoder, classes, prompt.tokens, prompt.words)
        case CocoopPrompt():
            width = backbone.feature_width("native")
            head.contexts = Contexts(encoder, classes, prompt.tokens, prompt.words, condition=width)
            head.chunk = prompt.chunk
        case TptPrompt():
            head.contexts = Contexts(encoder, classes, prompt.tokens, prompt.words)
            head.contexts.requires_grad_(False)  # tuned for every test image, see heads/tpt.py
        case MaplePrompt():
            tower = backbone.require_tower("token prompts")
            vision = CoupledPrompts(tower, start_context(encoder, prompt.depth, prompt.tokens, prompt.words))
            head.contexts = Contexts(
                encoder, classes, prompt.tokens, prompt.words, depth=prompt.depth, tokens=vision.tokens
            )
        case IvlpPrompt():
            if prompt.tokens:
                vision = ClipVisionPrompts(backbone.require_tower("token prompts"), prompt.tokens, prompt.depth)
            if prompt.text_tokens:
                head.contexts = Contexts(encoder, classes, prompt.text_tokens, prompt.words, depth=prompt.text_depth)
    return vision, head


def learner_skeleton(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | None, nn.Module]:
    """What learns in that which `build_learner` makes, under the same names; to be called for the meta device.

    Raises:
        UserError: towers that take no prompts, or have fewer layers.
    """
    prompt, text = config.prompt, _encoder(backbone).require_tower("learned context")
    vision: TokenPrompts | None = None
    depth, count, each = 1, getattr(prompt, "tokens", 0), 1
    match prompt:
        case CoopPrompt(class_specific=True):
            each = len(classes)
        case MaplePrompt():
            tokens = torch.empty(prompt.depth, prompt.tokens, text.width)
            vision, count = CoupledPrompts(backbone.require_tower("token prompts"), tokens), 0
        case IvlpPrompt():
            if prompt.tokens:
                vision = ClipVisionPrompts(backbone.require_tower("token prompts"), prompt.tokens, prompt.depth)
            depth, count = prompt.text_depth, prompt.text_tokens
    if count and depth > len(text.blocks):
        raise UserError(f"prompt.text_depth={depth}: the text tower has {len(text.blocks)} layers")
    head, contexts = nn.Module(), nn.Module()
    if count and not isinstance(prompt, TptPrompt):
        contexts.tokens = nn.Parameter(torch.empty(max(depth, each), count, text.width))
    if isinstance(prompt, CocoopPrompt):
        contexts.meta = meta_net(backbone.feature_width("native"), text.width)
    head.contexts = contexts
    return vision, head


def _encoder(backbone: Backbone) -> TextEncoder:
    if backbone.text is None:
        raise UserError(f"backbone {backbone.name} was loaded without its text tower")
    return backbone.text
