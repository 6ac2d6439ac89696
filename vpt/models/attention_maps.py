"""Where a prompted model looks: attention of the class row over patches, of patches over prompts, and rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.block import Block, KeyValue, join
from vpt.backbones.forward import execute, key_mask
from vpt.backbones.layer_prompt import NOTHING, LayerPrompt
from vpt.models.classifier import PromptedModel
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Attention:
    """Attention of one image, means over heads.

    Args:
        cls: share of the class row's attention that goes to each patch, (layers, h, w); None without a class row.
        prompts: share of each patch's attention that goes to prompts, (layers, h, w); zero in layers without any.
        rollout: attention from the output back to the patches through all layers and skips, (h, w) (Abnar and Zuidema
            2020); from the class row, or from the mean of patches where there is none.
    """

    cls: Tensor | None
    prompts: Tensor
    rollout: Tensor


@torch.inference_mode()
def attention_of(model: PromptedModel, images: Tensor) -> list[Attention]:
    """Attention of uint8 images (B, 3, S, S).

    Raises:
        UserError: a backbone without a patch sequence.
    """
    tower = model.backbone.require_tower("attention maps")
    embedded, rotary = tower.embed(model.normalise(images))
    layers = model.constants() or [NOTHING] * len(tower.blocks)
    size = model.backbone.preprocess.size
    grid = (size // tower.patch[0], size // tower.patch[1])
    prefix = tower.prefix
    on_cls, on_prompts = [], []
    roll: Tensor | None = None

    def look(layer: int, rows: Tensor, extra: KeyValue | None, held: int) -> None:
        nonlocal roll
        rope = tower.rope(rotary, layer)
        # Of image rows alone; keys are extra ones, prompt rows, then image rows.
        weights = _weights(tower.blocks[layer], rows, extra, rope, held, prefix, layers[layer])[:, held:]
        asked = (0 if extra is None else extra.key.shape[2]) + held
        on_prompts.append(weights[:, prefix:, :asked].sum(-1).unflatten(1, grid))
        if tower.has_class_row:
            on_cls.append(weights[:, 0, asked + prefix :].unflatten(1, grid))
        roll = _rolled(roll, weights[:, :, asked:])

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
    rows: Tensor,
    extra: KeyValue | None,
    rope: Tensor | None,
    held: int,
    prefix: int,
    prompt: LayerPrompt,
) -> Tensor:
    """Attention weights (B, N, M), mean over heads; extra keys come first."""
    query, key, value = block.queries_keys_values(rows, rope, held + prefix)
    if prompt.temperature is not None:
        query = query / prompt.temperature
    if extra is not None:
        key, _ = join(extra, KeyValue(key, value))
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    mask = key_mask(prompt.seen, extra, rows, held)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).mean(1)


def _rolled(before: Tensor | None, weights: Tensor) -> Tensor:
    """One more layer of rollout: half attention among image rows, half the skip around it."""
    among = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    eye = torch.eye(among.shape[-1], device=among.device)
    mixed = 0.5 * among + 0.5 * eye
    return mixed if before is None else mixed @ before


def as_heat(values: Tensor) -> Any:
    """A map (h, w) brought to 0..1 by its own range, as a numpy array.

    >>> as_heat(torch.tensor([[1.0, 3.0]])).tolist()
    [[0.0, 1.0]]
    """
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-12)).cpu().numpy()


def require_attention(model: Any) -> PromptedModel:
    """The model, or a UserError that says why it shows no attention."""
    if not isinstance(model, PromptedModel) or model.backbone.tower is None:
        raise UserError("attention is shown of classifiers on a vision transformer only")
    return model
