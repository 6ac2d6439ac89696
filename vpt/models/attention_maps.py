"""Attention maps of a prompted model: class token to patches, patches to prompts, and attention rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.block import Block, KeyValue, join
from vpt.backbones.forward import execute, key_factors, key_mask
from vpt.backbones.layer_prompt import NOTHING, LayerPrompt
from vpt.models.classifier import PromptedModel
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Attention:
    """Attention maps of one image, averaged over heads.

    Args:
        cls: attention of the class token to each patch, (layers, h, w); None without a class token.
        prompts: fraction of each patch's attention to prompts, (layers, h, w); zero in layers without prompts.
        rollout: attention rollout (Abnar and Zuidema 2020) from the class token, or from the mean of patches without
            one, to the patches through all layers and residual connections, (h, w).
    """

    cls: Tensor | None
    prompts: Tensor
    rollout: Tensor


@torch.inference_mode()
def attention_of(model: PromptedModel, images: Tensor) -> list[Attention]:
    """Attention maps of uint8 images (B, 3, S, S).

    Raises:
        UserError: a backbone without a patch sequence.
    """
    tower = model.backbone.require_grid("attention maps")
    embedded, rotary = tower.embed(model.normalise(images))
    layers = model.constants() or [NOTHING] * len(tower.blocks)
    size = model.backbone.preprocess.size
    grid = (size // tower.patch[0], size // tower.patch[1])
    prefix = tower.prefix
    on_cls, on_prompts = [], []
    roll: Tensor | None = None

    def look(layer: int, tokens: Tensor, extra: KeyValue | None, prompts: int) -> None:
        nonlocal roll
        rope = tower.rope(rotary, layer)
        # Queries are image tokens only; keys are extra keys, prompt tokens, then image tokens.
        weights = _weights(tower.blocks[layer], tokens, extra, rope, prompts, prefix, layers[layer])[:, prompts:]
        before_image = (0 if extra is None else extra.key.shape[2]) + prompts
        on_prompts.append(weights[:, prefix:, :before_image].sum(-1).unflatten(1, grid))
        if tower.has_class_row:
            on_cls.append(weights[:, 0, before_image + prefix :].unflatten(1, grid))
        roll = _rolled(roll, weights[:, :, before_image:])

    execute(tower, model.steps, embedded, rotary, layers, tower.pool_rows or 1, look=look)
    assert roll is not None
    source = roll[:, 0] if tower.has_class_row else roll[:, prefix:].mean(1)
    shown = source[:, prefix:].unflatten(1, grid)
    return [
        Attention(
            torch.stack([layer[at] for layer in on_cls]) if on_cls else None,
            torch.stack([layer[at] for layer in on_prompts]),
            shown[at],
        )
        for at in range(len(images))
    ]


def _weights(
    block: Block,
    tokens: Tensor,
    extra: KeyValue | None,
    rope: Tensor | None,
    prompts: int,
    prefix: int,
    prompt: LayerPrompt,
) -> Tensor:
    """Attention weights (B, N, M), averaged over heads; extra keys come first."""
    query, key, value = block.queries_keys_values(tokens, rope, prompts + prefix)
    if prompt.temperature is not None:
        query = query / prompt.temperature
    if extra is not None:
        key, _ = join(extra, KeyValue(key, value))
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    mask = key_mask(prompt.seen, extra, tokens, prompts)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.float().softmax(-1).mean(1)
    factors = key_factors(prompt, tokens, prompts)
    if factors is None:
        return weights
    return weights * torch.nn.functional.pad(factors, (0, weights.shape[2] - factors.shape[2]), value=1.0)


def _rolled(before: Tensor | None, weights: Tensor) -> Tensor:
    """Add a layer to the rollout: half attention among image tokens, half the residual connection."""
    among = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    eye = torch.eye(among.shape[-1], device=among.device)
    mixed = 0.5 * among + 0.5 * eye
    return mixed if before is None else mixed @ before


def as_heat(values: Tensor) -> Any:
    """Scale a map (h, w) to 0..1 by its own range, as a numpy array.

    >>> as_heat(torch.tensor([[1.0, 3.0]])).tolist()
    [[0.0, 1.0]]
    """
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-12)).cpu().numpy()


def require_attention(model: Any) -> PromptedModel:
    """Return the model, or raise a UserError if it has no attention maps."""
    if not isinstance(model, PromptedModel) or model.backbone.tower is None:
        raise UserError("attention maps are available only for classifiers on a vision transformer")
    model.backbone.require_grid("attention maps")
    return model
