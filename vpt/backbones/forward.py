"""Forward pass of a tower's blocks with prompts, following a liveness plan."""

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
    sequence: Tensor,
    rotary: Tensor | None,
    layers: Sequence[LayerPrompt],
    lead: int,
    watch: Callable[[int, Tensor, int], None] | None = None,
    copies: int = 1,
    look: Callable[[int, Tensor, KeyValue | None, int], None] | None = None,
) -> tuple[Tensor, int]:
    """Run all blocks.

    Args:
        sequence: embedded image (B, N, C), class and register tokens first.
        rotary: rotary embedding of the patches, or None.
        layers: what the prompt does in each layer.
        lead: number of leading image tokens to compute where the plan keeps "lead".
        watch: called after each layer with its index, its tokens, and how many of them are prompt tokens.
        copies: repeats the batch this many times before the first layer in which a prompt acts; below it all copies are
            equal, and are computed once.
        look: called before each layer with its index, its input tokens, the additional keys and values that they attend
            to, and how many of them are prompt tokens.

    Returns:
        The tokens that the head reads (B, R, C), prompt tokens first, and how many of them are prompt tokens.
    """
    num_prompts = 0  # number of prompt tokens at the front of the sequence
    for layer, (block, step, prompt) in enumerate(zip(tower.blocks, plan, layers, strict=True)):
        if copies > 1 and prompt.acts:
            sequence, copies = sequence.repeat(copies, 1, 1), 1
        tokens, extra = prompt.tokens, prompt.extra
        if prompt.adapt is not None:
            adapted = prompt.adapt(sequence[:, num_prompts:])
            if step.as_rows:
                tokens = adapted
            else:
                extra = join(extra, block.keys_values(adapted))
        if tokens is not None:
            fresh = (tokens if tokens.ndim == 3 else tokens[None]).to(sequence.dtype)
            sequence = torch.cat([fresh.expand(sequence.shape[0], -1, -1), sequence[:, num_prompts:]], dim=1)
            num_prompts = fresh.shape[1]
        if look is not None:
            look(layer, sequence, extra, num_prompts)
        out = block.forward(
            sequence,
            extra,
            _queries(step, num_prompts, sequence.shape[1], lead, tower.prefix),
            tower.rope(rotary, layer),
            num_prompts + tower.prefix,
            prompt.branch,
            prompt.temperature,
            _mask(prompt.seen, sequence),
        )
        kept = num_prompts if step.keep in ("all", "prompts") else 0
        if kept and prompt.gate is not None:
            blended = prompt.gate * out[:, :kept] + (1 - prompt.gate) * sequence[:, :kept]
            out = torch.cat([blended.to(out.dtype), out[:, kept:]], dim=1)
        sequence, num_prompts = out, kept
        if watch is not None:
            watch(layer, sequence, num_prompts)
    return sequence.repeat(copies, 1, 1) if copies > 1 else sequence, num_prompts


def _mask(seen: Tensor | None, sequence: Tensor) -> Tensor | None:
    """Key mask of an image's queries, (B, 1, 1, P + N): its own extra keys, and all tokens."""
    if seen is None:
        return None
    return torch.cat([seen, seen.new_ones(sequence.shape[:2])], dim=1)[:, None, None]


def _queries(step: Step, num_prompts: int, total: int, lead: int, prefix: int) -> slice | None:
    """The tokens of a layer whose output is read; None for all of them."""
    start, stop = {
        "all": (0, total),
        "image": (num_prompts, total),
        "prompts": (0, num_prompts),
        "lead": (num_prompts, num_prompts + lead),
        "patches": (num_prompts + prefix, total),
    }[step.keep]
    return None if (start, stop) == (0, total) else slice(start, stop)
