"""A prompted model: frozen backbone, prompt, head; and the one declaration of what in it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.block import KeyValue
from vpt.config import FullTuning, NoPrompt, RunConfig
from vpt.errors import UserError
from vpt.heads.linear import build_head
from vpt.prompts.plan import Reads, Step, plan
from vpt.prompts.tokens import TokenPrompts, build_tokens
from vpt.tuning import apply_tuning

Role = Literal["prompt", "head", "bias", "lora", "backbone"]


class PromptedModel(nn.Module):
    """Takes uint8 images as the loader gives them, returns logits.

    Args:
        backbone: a frozen backbone, or one that `apply_tuning` has prepared.
        prompt: token prompts, or None.
        head: maps pooled features to logits.
        steps: the liveness plan of this prompt in this backbone; empty for a network without a token sequence.
        pool: what the head reads.
        owns_buffers: the whole backbone learns, so its batch statistics are the task's too.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | None,
        head: nn.Module,
        steps: Sequence[Step],
        pool: Literal["native", "cls", "avg", "prompts", "all"] = "native",
        owns_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.head = head
        self.steps = tuple(steps)
        self.pool = pool
        self.owns_buffers = owns_buffers
        self.mean: Tensor
        self.std: Tensor
        # On the 0..255 scale, so that a uint8 batch is normalised in one pass.
        pre = backbone.preprocess
        self.register_buffer("mean", torch.tensor(pre.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(pre.std).view(3, 1, 1) * 255, persistent=False)

    def train(self, mode: bool = True) -> PromptedModel:
        """Training mode for prompt and head. A backbone stays in evaluation mode unless all of it learns, batch
        statistics included."""
        super().train(mode)
        self.backbone.train(mode and self.owns_buffers)
        for name, module in self.backbone.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) to what the backbone expects."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (B, 3, S, S), found {images.dtype} {tuple(images.shape)}")
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def constants(self) -> list[KeyValue | None]:
        """What does not depend on the image: keys and values of the prompts. Valid until a parameter changes."""
        return self.backbone.keys_values(self.steps, self._sets(1)) if self.prompt is not None else []

    def features(self, images: Tensor, constants: Sequence[KeyValue | None] | None = None) -> Tensor:
        """Pooled features (B, features) of uint8 images."""
        sets = self._sets(images.shape[0])
        extra = constants if constants else None
        return self.backbone.features(self.normalise(images), self.steps, self.pool, sets, extra)

    def forward(self, images: Tensor, constants: Sequence[KeyValue | None] | None = None) -> Tensor:
        """Logits (B, classes) of uint8 images (B, 3, S, S).

        Args:
            constants: what `constants()` returned, so that inference computes it once.
        """
        return self.head(self.features(images, constants))

    def _sets(self, batch: int) -> Sequence[Tensor]:
        return self.prompt.sets(batch) if self.prompt is not None else ()

    def trainable(self) -> Iterator[tuple[str, Role, nn.Parameter]]:
        """The one declaration of what learns: name, role and parameter. Freezing, optimiser, saving and counting
        all go by it."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, self._role(name), parameter

    def _role(self, name: str) -> Role:
        part = name.split(".", 1)[0]
        if part in ("prompt", "head"):
            return part  # type: ignore[return-value]
        if ".lora_" in name:
            return "lora"
        return "backbone" if self.owns_buffers else "bias"

    def owned_state(self) -> dict[str, Tensor]:
        """Every tensor the task owns: what learns, and batch statistics where the whole backbone learns."""
        owned = {name: parameter.detach() for name, _, parameter in self.trainable()}
        if self.owns_buffers:
            saved = self.state_dict()
            owned |= {name: buffer for name, buffer in self.named_buffers() if name in saved}
        return owned

    def load_owned(self, tensors: dict[str, Tensor]) -> None:
        """Load what `owned_state` gave.

        Raises:
            UserError: tensors that are missing, unknown or of another shape, named.
        """
        owned = self.owned_state()
        wrong = sorted(set(owned) ^ set(tensors)) or [n for n in owned if owned[n].shape != tensors[n].shape]
        if wrong:
            raise UserError(f"the artifact does not fit the model its own header describes: see {', '.join(wrong[:3])}")
        with torch.no_grad():
            for name, value in owned.items():
                value.copy_(tensors[name])


def build_model(config: RunConfig, backbone: Backbone, classes: int) -> PromptedModel:
    """Put prompt and head on a backbone and mark what learns. New parameters are drawn from `train.seed`.

    Args:
        config: the run.
        backbone: a fresh backbone from loading.load_backbone; tuning changes it.
        classes: number of classes.

    Raises:
        UserError: a prompt the backbone cannot take, layers that do not exist, a pooling that reads what is not there.

    >>> from vpt.backbones.loading import load_backbone
    >>> from vpt.config import load_config
    >>> words = ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "prompt.tokens=2"]
    >>> config = load_config(overrides=words)
    >>> model = build_model(config, load_backbone(config.backbone), classes=3)
    >>> sum(parameter.numel() for _, _, parameter in model.trainable())
    5187
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        prompt, steps = _prompt(config, backbone)
        backbone = apply_tuning(config.tuning, backbone)
        head = build_head(config.head, backbone.feature_width(config.head.pool), classes)
    return PromptedModel(backbone, prompt, head, steps, config.head.pool, isinstance(config.tuning, FullTuning))


def _prompt(config: RunConfig, backbone: Backbone) -> tuple[TokenPrompts | None, tuple[Step, ...]]:
    pool = config.head.pool
    if isinstance(config.prompt, NoPrompt):
        if pool in ("prompts", "all"):
            raise UserError(f"head.pool={pool} reads prompts, but prompt=none; use head.pool=native")
        if backbone.tower is None:
            if pool != "native":
                backbone.require_tower(f"head.pool={pool}")
            return None, ()
        return None, plan(len(backbone.tower.blocks), {}, "drop", backbone.reads(pool))
    tower = backbone.require_tower("token prompts")
    depth = len(tower.blocks)
    prompt = build_tokens(config.prompt, depth, tower.width, tower.patch)
    if config.prompt.init != "uniform" and config.prompt.project is not None:
        raise UserError(
            f"prompt.init={config.prompt.init} takes tokens of the backbone's width; leave out prompt.project"
        )
    reads: Reads = backbone.reads(pool)
    steps = plan(depth, prompt.inserted, config.prompt.after, reads)
    if reads.prompts and not (steps[-1].insert is not None or steps[-1].carried):
        raise UserError(f"head.pool={pool} reads prompts of the last layer, but prompt.after=drop leaves none there")
    return prompt, steps
