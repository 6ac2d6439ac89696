"""E2VPT's pruning (Han et al. 2023, section 3.3): after a first training the least important tokens, and the least
important segments of every token, are masked out; then training restarts from the initial values ("rewinding")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpt.config import E2vptPrompt
from vpt.data.collate import Batch
from vpt.models.classifier import PromptedModel
from vpt.prompts.visual.e2vpt import EffectivePrompts
from vpt.training.callbacks import Callback
from vpt.utils.device import Autocast

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer

FIRST = "start"  # in a checkpoint: the initial values, until the prompt is pruned


class Pruning(Callback):
    """Prunes the prompt at the end of training, then restarts training from the initial values.

    They are stored as `kept["start"]` until then; without them the prompt is already pruned.

    Args:
        config: fractions to prune.
    """

    def __init__(self, config: E2vptPrompt) -> None:
        self._config = config

    def at_start(self, trainer: Trainer) -> None:
        """Store the initial values."""
        trainer.state.kept[FIRST] = {name: value.clone() for name, value in trainer.model.owned_state().items()}

    def before_training(self, trainer: Trainer) -> None:
        """Prune now if the run was stopped just before pruning."""
        self._prune_if_over(trainer)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Prune after the last epoch."""
        self._prune_if_over(trainer)

    def _prune_if_over(self, trainer: Trainer) -> None:
        first = trainer.state.kept.get(FIRST)
        if first is None or not trainer.progress.finished:
            return
        from vpt.training.tasks.pooled import PooledTask

        model, context, task = trainer.model, trainer.context, trainer.task
        assert isinstance(task, PooledTask)
        assert isinstance(model, PromptedModel)
        assert isinstance(model.prompt, EffectivePrompts)
        context.console.say("pruning: measuring the importance of tokens and segments")
        loader = context.loader(model, context.data.train, "train")
        token, segment = importance(model, loader.epoch(0), task.loss(model, context), context.device, context.autocast)
        loader.close()
        model.load_owned(first)
        prune(model.prompt, token, segment, self._config.prune_tokens, self._config.prune_segments)
        left = int(model.prompt.token_mask.sum())
        values = int(model.prompt.mask(model.backbone.require_tower("prompts").width).sum())
        context.console.say(
            f"pruned to {left} of {len(model.prompt.token_mask)} tokens, {values} values per layer; training again"
        )
        trainer.restart()
        trainer.rank_untrained(task.fit_head(model, context))


def importance(
    model: PromptedModel,
    batches: Iterable[Batch],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    autocast: Autocast,
) -> tuple[Tensor, Tensor]:
    """Importance of each token (P,) and each segment (P, segments) for the loss.

    The mean over batches of the absolute gradient of the mask; the released code averages the signed gradient.
    """
    prompt = model.prompt
    assert isinstance(prompt, EffectivePrompts)
    masks = [prompt.token_mask, prompt.segment_mask]
    sums = [torch.zeros_like(mask) for mask in masks]
    model.eval()
    for mask in masks:
        mask.requires_grad_(True)
    count = 0
    for batch in batches:
        with autocast():
            logits = model(batch.images.to(device))
        gradients = torch.autograd.grad(loss_of(logits, batch.labels.to(device)), masks)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient.abs()
        count += 1
    for mask in masks:
        mask.requires_grad_(False)
    token, segment = (total / max(1, count) for total in sums)
    return token, segment


def keep_most(scores: Tensor, share: float, least: int) -> Tensor:
    """Mask over the last axis: zero for the lowest `share` of scores, rounded down; at least `least` stay one.

    >>> keep_most(torch.tensor([3.0, 1.0, 2.0]), share=0.5, least=1)
    tensor([1., 0., 1.])
    """
    count = scores.shape[-1]
    lost = min(int(share * count), max(0, count - least))
    mask = torch.ones_like(scores)
    return mask.scatter(-1, scores.argsort(dim=-1, stable=True)[..., :lost], 0.0)


@torch.no_grad()
def prune(prompt: EffectivePrompts, token: Tensor, segment: Tensor, tokens: float, segments: float) -> None:
    """Set the masks by importance.

    Args:
        prompt: the prompt to prune.
        token: importance of tokens (P,).
        segment: importance of segments (P, segments).
        tokens: fraction of tokens to prune; at least one stays.
        segments: fraction of the segments of every token to prune; at least four stay.
    """
    prompt.token_mask.copy_(keep_most(token, tokens, least=1))
    prompt.segment_mask.copy_(keep_most(segment, segments, least=4))
