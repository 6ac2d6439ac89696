"""TDA: zero-shot scores and two caches of test images, without training (Karmanov et al. 2024, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.backbones.text_encoder import TextEncoder
from vpt.config.heads import TdaHead
from vpt.heads.tpt import entropy
from vpt.heads.zero_shot import ZeroShot


class Cache:
    """The `slots` most certain images of each predicted class, as the released code keeps them.

    Args:
        classes: number of classes.
        slots: largest number of images of a class.
        like: a feature (D,).
        values: channels of what is stored with an image.
    """

    def __init__(self, classes: int, slots: int, like: Tensor, values: int) -> None:
        self.keys = like.new_zeros(classes, slots, like.shape[-1])
        self.entropy = like.new_full((classes, slots), math.inf)
        self.values = like.new_zeros(classes, slots, values)

    def add(self, label: int, key: Tensor, uncertainty: Tensor, value: Tensor) -> None:
        """Store an image in an empty slot, or instead of the least certain one if it is more certain."""
        worst = int(self.entropy[label].argmax())
        if uncertainty < self.entropy[label, worst]:
            self.keys[label, worst], self.entropy[label, worst], self.values[label, worst] = key, uncertainty, value

    def scores(self, key: Tensor, sharpness: float) -> Tensor:
        """Sum of exp(-sharpness (1 - cosine)) times the stored values, (values,)."""
        near = torch.exp(-sharpness * (1 - self.keys @ key)) * self.entropy.isfinite()
        return (near[..., None] * self.values).sum((0, 1))


class Tda(ZeroShot):
    """Zero-shot scores plus those of a cache of certain images, minus those of a cache of uncertain ones.

    Scores depend on the images before, and on their order. `ready` and `forward` start with empty caches.
    """

    in_order = True

    def __init__(
        self,
        encoder: TextEncoder,
        fingerprint: str,
        names: Sequence[str],
        templates: Sequence[str],
        config: TdaHead,
    ) -> None:
        super().__init__(encoder, fingerprint, names, templates)
        self.config = config

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, K) of image features (B, D), one after the other."""
        return self.ready()(features)

    def ready(self) -> Callable[[Tensor], Tensor]:
        """A function of features (B, D) that remembers them from call to call."""
        config, text = self.config, self.fixed.float()
        classes = len(text)
        caches: list[Cache] = []

        @torch.no_grad()
        def scored(features: Tensor) -> Tensor:
            keys = F.normalize(features.float(), dim=-1)
            if not caches:
                caches.extend(Cache(classes, shots, keys[0], classes) for shots in (config.shots, config.minus_shots))
            sure, unsure = caches
            plain = self.scores(keys, text)
            # In nats, but divided by log2, as in the released code, whose thresholds are in this unit.
            uncertain = entropy(plain)
            part = uncertain / math.log2(classes)
            found = []
            for key, row, each, level in zip(keys, plain, uncertain, part.tolist(), strict=True):
                label, chance = int(row.argmax()), row.softmax(0)
                sure.add(label, key, each, F.one_hot(row.argmax(), classes).to(key.dtype))
                if config.lowest < level < config.highest:
                    rare = (chance > config.rare) & (chance < 1)
                    unsure.add(label, key, each, rare.to(key.dtype))
                added = config.alpha * sure.scores(key, config.beta)
                found.append(row + added - config.minus * unsure.scores(key, config.minus_beta))
            return torch.stack(found).to(features.dtype)

        return scored
