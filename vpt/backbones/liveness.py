"""Prompt liveness: for every layer, which rows enter and which rows anybody reads.

A prompt row whose output nobody reads needs no query, no attention output and no MLP: it acts through its key and
value alone. This pure function decides it from three facts: where prompts are inserted, what becomes of their outputs
in layers without fresh ones, and what the head reads. Shallow, deep and partial prompting are all cases of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

After = Literal["carry", "drop", "insert"]
Keep = Literal["all", "image", "prompts", "lead", "patches"]


@dataclass(frozen=True)
class Step:
    """One layer of the plan."""

    insert: int | None  # which set of prompt tokens enters before this layer, replacing any carried ones
    as_rows: bool  # those tokens join the sequence, because their outputs are read; else they are keys and values only
    carried: bool  # prompt outputs of the layer below are among the rows of this one
    # Outputs that are read: all rows, image rows, prompt rows, the image rows the head starts with, or patch rows.
    keep: Keep


@dataclass(frozen=True)
class Reads:
    """What the head reads of the last layer: prompt rows, and all image rows, the leading ones, or the patches."""

    prompts: bool = False
    image: Literal["all", "lead", "patches", "none"] = "all"


def plan(depth: int, inserted: Mapping[int, int], after: After, reads: Reads) -> tuple[Step, ...]:
    """Plan a pass through `depth` layers.

    Args:
        depth: number of layers.
        inserted: layer -> index of the token set inserted before it (VPT section 3.2).
        after: in a layer above a prompted one that has no fresh tokens: 'carry' the outputs of the prompts on,
            'drop' them, or 'insert' the last prompted layer's tokens again.
        reads: what the head reads.

    >>> [step.keep for step in plan(2, {0: 0, 1: 1}, "carry", Reads(image="lead"))]
    ['image', 'lead']
    >>> [step.carried for step in plan(2, {0: 0}, "carry", Reads())]
    [False, True]
    """
    if after == "insert":
        inserted = _repeat(depth, inserted)
    # Rows enter layer l alive when the layer inserts none of its own but one below did, and they are carried.
    carried = [
        after == "carry" and layer not in inserted and any(below < layer for below in inserted)
        for layer in range(depth)
    ]
    steps = []
    for layer in range(depth):
        last = layer == depth - 1
        present = layer in inserted or carried[layer]
        rows_read = present and (reads.prompts if last else carried[layer + 1])
        steps.append(
            Step(
                insert=inserted.get(layer),
                as_rows=layer in inserted and rows_read,
                carried=carried[layer],
                keep=_keep(rows_read, reads.image if last else "all"),
            )
        )
    return tuple(steps)


def _keep(prompts: bool, image: Literal["all", "lead", "patches", "none"]) -> Keep:
    if prompts:
        # Prompt rows stand before the image rows; a head that reads both reads all, since rows kept are contiguous.
        return "prompts" if image == "none" else "all"
    return image if image in ("lead", "patches") else "image"


def _repeat(depth: int, inserted: Mapping[int, int]) -> dict[int, int]:
    filled: dict[int, int] = {}
    for layer in range(depth):
        below = filled.get(layer - 1)
        index = inserted.get(layer, below)
        if index is not None:
            filled[layer] = index
    return filled
