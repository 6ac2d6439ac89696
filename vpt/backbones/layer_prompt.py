"""What a prompt may do in one layer of a frozen transformer: the only things the executor knows about prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vpt.backbones.block import KeyValue


@dataclass(frozen=True)
class LayerPrompt:
    """Seven ports, all optional. Leading axes of size 1 stand for "the same for every image of the batch".

    Args:
        tokens: fresh prompt rows (P, C) or (B, P, C) that join the sequence, replacing rows carried from below.
        extra: keys and values seen by every query beside those of the rows. Tokens whose outputs nobody reads come
            this way: their keys and values do not depend on the image.
        seen: which prompt keys are seen, booleans over those of `extra` and then of the prompt rows in the sequence: by
            image (B, P), or by image row (B, N, P), class and register rows first; None for all. Keys that it leaves
            out at the end are seen, and prompt rows see all.
        adapt: image rows (B, N, C), class and register rows first, to fresh tokens (B, P, C) made for each image.
        branch: keys and values that the rows attend to once more, after self-attention, with the layer's own weights.
        temperature: attention scores of the whole layer are divided by it; a scalar or (B, 1, 1, 1).
        gate: share of a prompt row's output that is carried to the next layer, the rest is what entered this layer;
            a scalar or (B, 1, 1).
    """

    tokens: Tensor | None = None
    extra: KeyValue | None = None
    seen: Tensor | None = None
    adapt: Callable[[Tensor], Tensor] | None = None
    branch: KeyValue | None = None
    temperature: Tensor | None = None
    gate: Tensor | None = None


NOTHING = LayerPrompt()
