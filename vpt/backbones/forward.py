"""Forward pass of a tower's blocks with prompts, following a liveness plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vpt.backbones.block import KeyValue, join
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.backbones.low_rank import with_low_rank
from vpt.backbones.vit_spec import Tower


def execute(
    tower: Tower,
    plan: Sequence[Step],
    sequence: Tensor,
    rotary: Tensor | None,
    layers: Sequence[LayerPrompt],
    lead: int,
    watch: Callable[[int, Tensor, int], None] | None = None,
    look: Callable[[int, Tensor, KeyValue | None, int], None] | None = None,
    start: int = 0,
    stop: int | None = None,
    outputs: list[Tensor] | None = None,
) -> tuple[Tensor, int]:
    """Run the blocks.

    Args:
        sequence: embedded image (B, N, C), class and register tokens first.
        rotary: rotary embedding of the patches, or None.
        layers: what the prompt does in each layer.
        lead: number of leading image tokens to compute where the plan keeps "lead".
        watch: called after each layer with its index, its tokens, and how many of them are prompt tokens.
        look: called before each layer with its index, its input tokens, the additional keys and values that they attend
            to, and how many of them are prompt tokens.
        start: first layer to run; no prompt tokens are carried into it.
        stop: layer after the last one to run; default: all.
        outputs: gets the outputs (B, T, C) of the query tokens of each layer that has some.

    Returns:
        The tokens that are read (B, R, C), prompt tokens first, and how many of them are prompt tokens.
    """
    num_prompts = 0  # number of prompt tokens at the front of the sequence
    for layer in range(start, len(plan) if stop is None else stop):
        block, step, prompt = tower.blocks[layer], plan[layer], layers[layer]
        if prompt.low_rank is not None:
            block = with_low_rank(block, prompt.low_rank)
        tokens, extra = prompt.tokens, prompt.extra
        if prompt.carry is not None and num_prompts:
            carried = prompt.carry(sequence[:, :num_prompts]).to(sequence.dtype)
            sequence = torch.cat([carried, sequence[:, num_prompts:]], dim=1)
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
        if prompt.entering is not None:
            prompt.entering(sequence[:, num_prompts:])
        rope = tower.rope(rotary, layer)
        if prompt.queries is not None and outputs is not None:
            outputs.append(block.queried(prompt.queries, sequence[:, num_prompts:], rope, tower.prefix))
        queries, added = _queries(step, num_prompts, sequence.shape[1], lead, tower.prefix), None
        if prompt.added is not None:
            read = queries and slice(max(0, queries.start - num_prompts), queries.stop - num_prompts)
            added = prompt.added(sequence[:, num_prompts:], rope, read)
        out = block.forward(
            sequence,
            extra,
            queries,
            rope,
            num_prompts + tower.prefix,
            prompt.branch,
            prompt.temperature,
            key_mask(prompt.seen, extra, sequence, num_prompts),
            prompt.value_bias,
            prompt.adapter,
            key_factors(prompt, sequence, num_prompts),
            None if prompt.beside is None else prompt.beside(sequence[:, num_prompts:], rope),
        )
        kept = num_prompts if step.keep in ("all", "prompts", "prompts_lead") else 0
        if added is not None:
            added = added.to(out.dtype)
            out = torch.cat([out[:, :kept], out[:, kept:] + added], dim=1) if kept else out + added
        if kept and prompt.gate is not None:
            blended = prompt.gate * out[:, :kept] + (1 - prompt.gate) * sequence[:, :kept]
            out = torch.cat([blended.to(out.dtype), out[:, kept:]], dim=1)
        sequence, num_prompts = out, kept
        if prompt.leaving is not None:
            prompt.leaving(sequence[:, num_prompts:])
        if watch is not None:
            watch(layer, sequence, num_prompts)
    return sequence, num_prompts


def key_mask(seen: Tensor | None, extra: KeyValue | None, sequence: Tensor, num_prompts: int) -> Tensor | None:
    """Key mask over the extra keys and all tokens: (B, 1, 1, P + N) where it is the same for all queries of an image,
    else (B, 1, N, P + N).

    Args:
        seen: see `LayerPrompt`.
        extra: of the layer.
        sequence: tokens of the layer, (B, N, C), prompt tokens first.
        num_prompts: how many of them are prompt tokens.

    >>> key_mask(torch.tensor([[True, False]]), None, torch.zeros(1, 3, 8), 2)
    tensor([[[[ True, False,  True]]]])
    """
    if seen is None:
        return None
    keys = (0 if extra is None else extra.key.shape[2]) + sequence.shape[1]
    by_query = seen if seen.ndim == 3 else seen[:, None]
    by_query = torch.cat([by_query, by_query.new_ones(*by_query.shape[:2], keys - by_query.shape[2])], dim=2)
    if seen.ndim == 3 and num_prompts:
        by_query = torch.cat([by_query.new_ones(by_query.shape[0], num_prompts, keys), by_query], dim=1)
    return by_query[:, None]


def key_factors(prompt: LayerPrompt, sequence: Tensor, num_prompts: int) -> Tensor | None:
    """Factors (B, N, P) of the attention weights of all tokens on the first P keys; those of prompt tokens are 1. See
    `LayerPrompt.weigh`; `sequence` and `num_prompts` are as in `key_mask`.

    >>> key_factors(LayerPrompt(weigh=lambda rows: torch.zeros(1, 2, 1)), torch.zeros(1, 3, 8), 1).flatten().tolist()
    [1.0, 0.0, 0.0]
    """
    if prompt.weigh is None:
        return None
    factors = prompt.weigh(sequence[:, num_prompts:])
    return torch.nn.functional.pad(factors, (0, 0, num_prompts, 0), value=1.0)


def _queries(step: Step, num_prompts: int, total: int, lead: int, prefix: int) -> slice | None:
    """The tokens of a layer whose output is read; None for all of them."""
    start, stop = {
        "all": (0, total),
        "image": (num_prompts, total),
        "prompts": (0, num_prompts),
        "lead": (num_prompts, num_prompts + lead),
        "prompts_lead": (0, num_prompts + lead),
        "patches": (num_prompts + prefix, total),
    }[step.keep]
    return None if (start, stop) == (0, total) else slice(start, stop)
