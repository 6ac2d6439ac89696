"""The base of every token prompt: which tokens enter where, and what else they do in a layer.

A method of one's own overrides `sets` (the tokens), `in_layer` (the ports of backbones/ports.py), or both; the executor
needs no change. What must happen after every step of the optimizer goes into `after_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import After, Step
from vpt.backbones.vit_spec import Tower


@dataclass(frozen=True)
class Shape:
    """What a prompt must know of a backbone."""

    depth: int  # layers
    width: int  # channels C
    heads: int
    patch: tuple[int, int]  # pixels
    grid: tuple[int, int]  # patches
    prefix: int = 1  # class and register rows before the patches

    @classmethod
    def of(cls, tower: Tower, size: int | None = None) -> Shape:
        """The shape of a tower that sees squares of `size` pixels; default: of its own size."""
        grid = tower.grid if size is None else (size // tower.patch[0], size // tower.patch[1])
        return cls(len(tower.blocks), tower.width, tower.blocks[0].heads, tower.patch, grid, tower.prefix)


class TokenPrompts(nn.Module):
    """A token prompt.

    Args:
        inserted: layer -> index of the token set that enters before it.
        after: what becomes of prompt outputs in a layer above that has no fresh tokens, see plan.py.
    """

    def __init__(self, inserted: Mapping[int, int], after: After = "carry") -> None:
        super().__init__()
        self.inserted = dict(inserted)
        self.after: After = after

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) while dropout draws a mask for every image.

        Sets that a port makes for each image may be missing at the end.
        """
        raise NotImplementedError

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """What the prompt does in a layer; `plain` is what the tokens that enter there do."""
        return plain

    def packed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its state for a file, where less than all of it matters; `unpacked` gives it back."""
        return state

    def unpacked(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state that `packed` made a file's of. One that was not packed, or does not fit, stays as it is."""
        return state

    def constrain(self) -> None:
        """Bring parameters that have a range back into it, in place. Called after every step and after loading."""

    def after_step(self) -> None:
        """Called after every step of the optimizer, without gradients."""
        self.constrain()

    def layers(self, tower: Tower, plan: Sequence[Step], batch: int) -> list[LayerPrompt]:
        """What the prompt does in every layer. Nothing of it depends on the image but a port that is a function, so
        inference needs it once.

        Args:
            tower: the backbone.
            plan: says which tokens must be rows; the others are turned to keys and values here.
            batch: images, for dropout.
        """
        sets = self.sets(batch)
        found = []
        for layer, (block, step) in enumerate(zip(tower.blocks, plan, strict=True)):
            plain = LayerPrompt()
            if step.insert is not None and step.insert < len(sets):
                tokens = sets[step.insert]
                plain = LayerPrompt(tokens) if step.as_rows else LayerPrompt(extra=block.keys_values(tokens))
            found.append(self.in_layer(layer, block, plain, sets))
        return found


def dropped(tokens: Tensor, share: float, batch: int, training: bool) -> Tensor:
    """Token sets (sets, P, C) after dropout: as they are, or (sets, batch, P, C) with a mask for every image.

    >>> import torch
    >>> dropped(torch.ones(2, 3, 4), 0.5, batch=5, training=True).shape
    torch.Size([2, 5, 3, 4])
    """
    if not training or share == 0:
        return tokens
    return nn.functional.dropout(tokens[:, None].expand(-1, batch, -1, -1), share)
