"""Training objectives with regularisers that keep a prompted CLIP close to the frozen one."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.config import KgcoopPrompt, PromptsrcPrompt
from vpt.config.prompts_clip import MmrlPrompt
from vpt.heads.zero_shot import ZeroShot
from vpt.models.classifier import PromptedModel, plan_for
from vpt.prompts.clip.mmrl import RepresentationTexts
from vpt.training.losses import Count, Loss, Objective, hits


def knowledge_guided(
    prompt: KgcoopPrompt, model: PromptedModel, loss_of: Loss, cached: bool, count: Count = hits
) -> Objective:
    """Objective of KgCoOp (Yao et al. 2023): adds `prompt.weight` times one minus the mean cosine similarity
    between learned and fixed text features.

    This is the released code's term, half of the paper's squared distance at the same weight.
    """
    head = cast(ZeroShot, model.head)

    def objective(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = inputs if cached else model.features(inputs)
        text = head.text()
        scores = head.scores(features, text)
        apart = 1 - (text.float() * head.fixed.float()).sum(-1).mean()
        return loss_of(scores, labels) + prompt.weight * apart, count(scores.detach(), labels)

    return objective


def self_regulating(
    prompt: PromptsrcPrompt, model: PromptedModel, loss_of: Loss, cached: bool, count: Count = hits
) -> Objective:
    """Objective of PromptSRC (Khattak et al. 2023, section 3.2.1): adds the mean absolute differences of normalised
    image and text features from those of the frozen model, and the divergence of its scores from the prompted ones,
    divided by images and classes as in the released code."""
    head = cast(ZeroShot, model.head)
    steps = plan_for(model.backbone, None, "native")

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        features, text = model.features(images), head.text()
        scores = head.scores(features, text)
        with torch.no_grad():
            frozen = model.backbone.features(model.normalise(images), steps)
            frozen_scores = head.scores(frozen, head.fixed)
        image = (F.normalize(features.float(), dim=-1) - F.normalize(frozen.float(), dim=-1)).abs().mean()
        words = (text.float() - head.fixed.float()).abs().mean()
        mine, theirs = scores.float().log_softmax(1), frozen_scores.float().log_softmax(1)
        apart = F.kl_div(mine, theirs, log_target=True, reduction="sum") / mine.numel()
        regularizer = prompt.image_weight * image + prompt.text_weight * words + prompt.score_weight * apart
        return loss_of(scores, labels) + regularizer, count(scores.detach(), labels)

    return objective


def two_features(
    prompt: MmrlPrompt, model: PromptedModel, loss_of: Loss, cached: bool, count: Count = hits
) -> Objective:
    """Objective of MMRL (Guo and Gu 2025): the losses of the class feature and of the representation tokens' feature,
    weighted by `prompt.alpha` and the rest, and `prompt.weight` times one minus the mean cosine similarity of class and
    text features to those of the frozen model. The layers below the tokens run once for both models."""
    head, backbone, alpha = cast(ZeroShot, model.head), model.backbone, prompt.alpha
    texts = cast(RepresentationTexts, head.contexts)
    plain = plan_for(backbone, None, "native")

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        below = backbone.tokens_below(prompt.layer, model.normalise(images), plain)
        layers = model.constants(len(images))
        found = backbone.features_above(prompt.layer, *below, model.steps, model.pool, layers)
        with torch.no_grad():
            frozen = backbone.features_above(prompt.layer, *below, plain)
        (own, other), text = texts.both(found), head.text()
        scores = [head.similarities(each, text) for each in (own, other)]
        loss = alpha * loss_of(scores[0], labels) + (1 - alpha) * loss_of(scores[1], labels)
        pairs = ((own, F.normalize(frozen, dim=-1)), (text, head.fixed))
        apart = sum(1 - (one.float() * there.float()).sum(-1).mean() for one, there in pairs)
        fused = alpha * scores[0] + (1 - alpha) * scores[1]
        return loss + prompt.weight * apart, count(fused.detach(), labels)

    return objective
