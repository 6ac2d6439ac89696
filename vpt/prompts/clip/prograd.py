"""ProGrad's context (Zhu et al. 2023); how its gradient is projected is in training/projected_gradient.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vpt.backbones.backbone import Backbone
from vpt.config import KgcoopPrompt
from vpt.config.prompts_clip import ProgradPrompt
from vpt.prompts.clip.learners import Kgcoop, Learner, encoder_of
from vpt.prompts.clip.text_context import Contexts
from vpt.utils.errors import UserError


class Prograd:
    """Builds ProGrad; see learners.py."""

    @staticmethod
    @torch.no_grad()
    def build(config: ProgradPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """One context for all classes: zeros, then the words, as many tokens as there are words (the released code)."""
        encoder = encoder_of(backbone)
        contexts = Contexts(encoder, classes, config.tokens)
        if config.words is not None:
            ids = torch.tensor(encoder.tokenizer.encode(config.words)[: len(config.words.split())])
            if len(ids) > config.tokens:
                raise UserError(f"prompt.words='{config.words}' are more than prompt.tokens={config.tokens} words")
            tower = encoder.require_tower("learned context")
            contexts.tokens.zero_()
            contexts.tokens[0, config.tokens - len(ids) :] = tower.embed(ids.to(encoder.scale.device)).cpu()
        return Learner(contexts=contexts)

    @staticmethod
    def skeleton(config: ProgradPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See learners.py."""
        return Kgcoop.skeleton(KgcoopPrompt(tokens=config.tokens), backbone, classes)
