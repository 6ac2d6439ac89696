"""The executor: carries rows through a tower's blocks by a liveness plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpt.backbones.block import KeyValue
from vpt.backbones.tower import Tower
from vpt.prompts.plan import Step


def keys_values(tower: Tower, plan: Sequence[Step], prompts: Sequence[Tensor]) -> list[KeyValue | None]:
    """Keys and values of every prompt that enters a layer as keys and values only; None for the other layers.

    They do not depend on the image: once a step in training, once for ever at inference.

    Args:
        prompts: token sets, each (P, C), or (B, P, C) when every image has its own.
    """
    return [
        block.keys_values(prompts[step.insert]) if step.insert is not None and not step.as_rows else None
        for block, step in zip(tower.blocks, plan, strict=True)
    ]


def execute(
    tower: Tower,
    plan: Sequence[Step],
    rows: Tensor,
    rotary: Tensor | None,
    prompts: Sequence[Tensor],
    extra: Sequence[KeyValue | None],
    lead: int,
) -> tuple[Tensor, int]:
    """Run all blocks.

    Args:
        rows: embedded image (B, N, C), class and register rows first.
        rotary: rotary embedding of the patches, or None.
        prompts: token sets that the plan refers to.
        extra: what `keys_values` returned for them.
        lead: how many leading image rows the step kept as "lead" wants.

    Returns:
        The rows that the head reads (B, R, C), prompt rows first, and how many of them are prompt rows.
    """
    held = 0  # prompt rows at the front of `rows`
    for layer, (block, step) in enumerate(zip(tower.blocks, plan, strict=True)):
        if step.insert is not None and step.as_rows:
            fresh = prompts[step.insert]
            fresh = (fresh if fresh.ndim == 3 else fresh[None]).to(rows.dtype)
            held = fresh.shape[1]
            rows = torch.cat([fresh.expand(rows.shape[0], -1, -1), rows], dim=1)
        queries = _queries(step, held, rows.shape[1], lead)
        rows = block.forward(rows, extra[layer], queries, tower.rope(rotary, layer), held + tower.prefix)
        held = held if step.keep in ("all", "prompts") else 0
    return rows, held


def _queries(step: Step, held: int, total: int, lead: int) -> slice | None:
    """The rows of one layer whose output is read; None for all of them."""
    start, stop = {
        "all": (0, total),
        "image": (held, total),
        "prompts": (0, held),
        "lead": (held, held + lead),
    }[step.keep]
    return None if (start, stop) == (0, total) else slice(start, stop)
