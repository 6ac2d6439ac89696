"""Prompt liveness: which tokens enter each layer, and whose outputs are read.

A prompt token whose output is not read needs no query, no attention output and no MLP: it acts only through its key and
value. This pure function derives that from three facts: where prompts are inserted, what happens to their outputs in
layers without fresh ones, and what the head reads. Shallow, deep and partial prompting are special cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

After = Literal["carry", "drop", "insert"]
Keep = Literal["all", "image", "prompts", "lead", "prompts_lead", "patches"]


@dataclass(frozen=True)
class Step:
    """One layer of the plan."""

    insert: int | None  # index of the prompt tokens inserted before this layer, replacing any carried ones
    as_rows: bool  # these tokens join the sequence, because their outputs are read; else they are keys and values only
    carried: bool  # prompt outputs of the layer below are in the sequence of this one
    # Outputs that are read: all tokens, image tokens, prompt tokens, the leading image tokens, both, or patch tokens.
    keep: Keep


@dataclass(frozen=True)
class Reads:
    """What the head reads of the last layer: prompt tokens or not, and all, leading, patch or no image tokens."""

    prompts: bool = False
    image: Literal["all", "lead", "patches", "none"] = "all"


def plan(depth: int, inserted: Mapping[int, int], after: After, reads: Reads) -> tuple[Step, ...]:
    """Plan a forward pass through `depth` layers.

    Args:
        depth: number of layers.
        inserted: layer -> index of the token set inserted before it (VPT section 3.2).
        after: what happens in an unprompted layer above a prompted one: 'carry' the outputs of the prompt tokens on,
            'drop' them, or 'insert' the last prompted layer's tokens again.
        reads: what the head reads.

    >>> [step.keep for step in plan(2, {0: 0, 1: 1}, "carry", Reads(image="lead"))]
    ['image', 'lead']
    >>> [step.carried for step in plan(2, {0: 0}, "carry", Reads())]
    [False, True]
    """
    if after == "insert":
        inserted = _repeat(depth, inserted)
    # Prompt tokens are carried into a layer that inserts none of its own if a layer below inserted some.
    carried = [
        after == "carry" and layer not in inserted and any(below < layer for below in inserted)
        for layer in range(depth)
    ]
    steps = []
    for layer in range(depth):
        last = layer == depth - 1
        present = layer in inserted or carried[layer]
        prompts_read = present and (reads.prompts if last else carried[layer + 1])
        steps.append(
            Step(
                insert=inserted.get(layer),
                as_rows=layer in inserted and prompts_read,
                carried=carried[layer],
                keep=_keep(prompts_read, reads.image if last else "all"),
            )
        )
    return tuple(steps)


def _keep(prompts: bool, image: Literal["all", "lead", "patches", "none"]) -> Keep:
    if prompts:
        # Prompt tokens precede the image tokens, and kept tokens are contiguous.
        return "prompts" if image == "none" else "prompts_lead" if image == "lead" else "all"
    return image if image in ("lead", "patches") else "image"


def _repeat(depth: int, inserted: Mapping[int, int]) -> dict[int, int]:
    filled: dict[int, int] = {}
    for layer in range(depth):
        below = filled.get(layer - 1)
        index = inserted.get(layer, below)
        if index is not None:
            filled[layer] = index
    return filled
