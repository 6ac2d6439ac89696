"""Builds both sides of a prompted CLIP from a configuration: image prompts and the zero-shot head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.config import ClipPrompt, RunConfig, TipHead, ZeroShotHead
from vpt.config.heads import TdaHead
from vpt.config.prompts import PROMPTS
from vpt.heads.tda import Tda
from vpt.heads.tip_adapter import TipAdapter
from vpt.heads.zero_shot import ZeroShot
from vpt.models.class_templates import templates_of
from vpt.prompts.base import TokenPrompts
from vpt.prompts.clip.learners import Learner, encoder_of
from vpt.prompts.clip.text_context import Texts
from vpt.utils.errors import UserError


def build_zero_shot(config: RunConfig, backbone: Backbone, classes: Sequence[str]) -> ZeroShot:
    """The zero-shot head of fixed templates, with a cache of training images for Tip-Adapter.

    Raises:
        UserError: templates that cannot be read.
    """
    assert isinstance(config.head, ZeroShotHead)
    encoder, templates = encoder_of(backbone), templates_of(config)
    if isinstance(config.head, TipHead):
        mix = (config.head.first_alpha, config.head.first_beta)
        return TipAdapter(encoder, backbone.fingerprint, classes, templates, config.head.finetune, mix)
    if isinstance(config.head, TdaHead):
        return Tda(encoder, backbone.fingerprint, classes, templates, config.head)
    return ZeroShot(encoder, backbone.fingerprint, classes, templates)


def build_learner(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | None, ZeroShot]:
    """Prompts of the image tower, if there are any, and the head with its learnable context.

    Raises:
        UserError: a head that does not fit, a tower without support for prompts, or class names that are too long.
    """
    prompt = config.prompt
    assert isinstance(prompt, ClipPrompt)
    if type(config.head) is not ZeroShotHead:
        raise UserError(f"prompt={prompt.kind} is part of the text of class names; set head=zeroshot")
    if prompt.source_templates:
        import open_clip

        some = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES][: prompt.source_templates]
        head = ZeroShot(encoder_of(backbone), backbone.fingerprint, classes, some, each_normal=False)
    else:
        head = build_zero_shot(config, backbone, classes)
    learner: Learner = PROMPTS.built(prompt, backbone, classes)
    if learner.contexts is not None:
        head.learn(cast(Texts, learner.contexts))
    if learner.chunk is not None:
        head.chunk = learner.chunk
    return learner.vision, head


def learner_skeleton(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | None, nn.Module]:
    """Trainable parts of the result of `build_learner`, with the same names; to be called on the meta device.

    Raises:
        UserError: towers without support for prompts, or with fewer layers.
    """
    assert isinstance(config.prompt, ClipPrompt)
    learner: Learner = config.prompt.skeleton(backbone, classes)
    head = nn.Module()
    head.contexts = learner.contexts or nn.Module()
    return learner.vision, head
