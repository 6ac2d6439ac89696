"""Attention maps of a task for an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vpt.inference.bank.answers import Prepared
from vpt.inference.bank.task import LoadedTask, TaskError
from vpt.models.attention_maps import as_heat, attention_of, require_attention
from vpt.utils.image_grid import rgb_of

MAX_BYTES = 1 << 30  # maximum memory for computing the attention maps of one image


def look_at(task: LoadedTask, image: Prepared, device: torch.device) -> dict[str, Any]:
    """Result of `Bank.attention`.

    Raises:
        TaskError: the attention maps need too much memory or are not finite.
        UserError: the task has no attention maps.
    """
    model = require_attention(task.predictor.model)
    tower = model.backbone.require_tower("attention maps")
    patches = image.pixels.shape[1] // tower.patch[0] * (image.pixels.shape[2] // tower.patch[1])
    # Scores of all heads in float32, and the softmax of them.
    if 3 * 4 * tower.blocks[0].heads * patches**2 > MAX_BYTES:
        raise TaskError(f"the images of task {task.name} have {patches} patches, too many for attention maps")
    with task.alone():
        (maps,) = attention_of(model, image.pixels[None].to(device))
    found = [maps.rollout, maps.prompts, *([] if maps.cls is None else [maps.cls])]
    if not all(bool(torch.isfinite(each).all()) for each in found):
        raise TaskError(f"task {task.name} has attention maps that are not finite; train it again")

    def lists(layers: Tensor | None) -> list[Any]:
        return [] if layers is None else [as_heat(layer).round(4).tolist() for layer in layers]

    return {
        "task": task.name,
        "square": rgb_of(image.pixels.permute(1, 2, 0).numpy()),
        "grid": list(maps.rollout.shape),
        "rollout": as_heat(maps.rollout).round(4).tolist(),
        "cls": lists(maps.cls),
        "prompts": lists(maps.prompts),
    }
