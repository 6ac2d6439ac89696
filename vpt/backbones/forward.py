"""The executor: carries rows through a tower's blocks by a liveness plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vpt.backbones.block import KeyValue, join
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.backbones.vit_spec import Tower


def execute(
    tower: Tower,
    plan: Sequence[Step],
    rows: Tensor,
    rotary: Tensor | None,
    layers: Sequence[LayerPrompt],
    lead: int,
    watch: Callable[[int, Tensor, int], None] | None = None,
    look: Callable[[int, Tensor, KeyValue | None, int], None] | None = None,
) -> tuple[Tensor, int]:
    """Run all blocks.

    Args:
        rows: embedded image (B, N, C), class and register rows first.
        rotary: rotary embedding of the patches, or None.
        layers: what the prompt does in each layer.
        lead: how many leading image rows the step kept as "lead" wants.
        watch: called after each layer with its number, its rows, and how many of them are prompt rows.
        look: called before each layer with its number, the rows that enter it, the keys and values that they see
            beside their own, and how many of them are prompt rows.

    Returns:
        The rows that the head reads (B, R, C), prompt rows first, and how many of them are prompt rows.
    """
    held = 0  # prompt rows at the front of `rows`
    for layer, (block, step, prompt) in enumerate(zip(tower.blocks, plan, layers, strict=True)):
        tokens, extra = prompt.tokens, prompt.extra
        if prompt.adapt is not None:
            adapted = prompt.adapt(rows[:, held:])
            if step.as_rows:
                tokens = adapted
            else:
                extra = join(extra, block.keys_values(adapted))
        if tokens is not None:
            fresh = (tokens if tokens.ndim == 3 else tokens[None]).to(rows.dtype)
            rows = torch.cat([fresh.expand(rows.shape[0], -1, -1), rows[:, held:]], dim=1)
            held = fresh.shape[1]
        if look is not None:
            look(layer, rows, extra, held)
        out = block.forward(
            rows,
            extra,
            _queries(step, held, rows.shape[1], lead, tower.prefix),
            tower.rope(rotary, layer),
            held + tower.prefix,
            prompt.branch,
            prompt.temperature,
            key_mask(prompt.seen, extra, rows, held),
        )
        kept = held if step.keep in ("all", "prompts") else 0
        if kept and prompt.gate is not None:
            blended = prompt.gate * out[:, :kept] + (1 - prompt.gate) * rows[:, :kept]
            out = torch.cat([blended.to(out.dtype), out[:, kept:]], dim=1)
        rows, held = out, kept
        if watch is not None:
            watch(layer, rows, held)
    return rows, held


def key_mask(seen: Tensor | None, extra: KeyValue | None, rows: Tensor, held: int) -> Tensor | None:
    """What queries attend to among the extra keys and all rows: (B, 1, 1, P + N) where it is one for an image, else
    (B, 1, N, P + N).

    Args:
        seen: see `LayerPrompt`.
        extra: of the layer.
        rows: of the layer, (B, N, C), prompt rows first.
        held: how many of them are prompt rows.

    >>> key_mask(torch.tensor([[True, False]]), None, torch.zeros(1, 3, 8), 2)
    tensor([[[[ True, False,  True]]]])
    """
    if seen is None:
        return None
    keys = (0 if extra is None else extra.key.shape[2]) + rows.shape[1]
    by_row = seen if seen.ndim == 3 else seen[:, None]
    by_row = torch.cat([by_row, by_row.new_ones(*by_row.shape[:2], keys - by_row.shape[2])], dim=2)
    if seen.ndim == 3 and held:
        by_row = torch.cat([by_row.new_ones(by_row.shape[0], held, keys), by_row], dim=1)
    return by_row[:, None]


def _queries(step: Step, held: int, total: int, lead: int, prefix: int) -> slice | None:
    """The rows of one layer whose output is read; None for all of them."""
    start, stop = {
        "all": (0, total),
        "image": (held, total),
        "prompts": (0, held),
        "lead": (held, held + lead),
        "patches": (held + prefix, total),
    }[step.keep]
    return None if (start, stop) == (0, total) else slice(start, stop)
