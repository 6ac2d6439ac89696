"""The base of every prompt, with its hooks; and of token prompts: which tokens enter where, and what else they do.

A new method overrides `sets` (the tokens), `in_layer` (see backbones/layer_prompt.py), or both; the executor needs no
change. docs/adding-a-method.md shows all hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import After, Step
from vpt.backbones.vit_spec import Tower
from vpt.utils.errors import UserError


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


@dataclass(frozen=True)
class TrainingImages:
    """Training images by which a prompt is initialised.

    Args:
        backbone: frozen, without the prompt.
        images: batches of normalised images (B, 3, S, S).
        labels: of each batch: class indices (B,), or zeros and ones (B, K) where an image may have several labels; for
            detection a list of targets with boxes and labels. Empty where there are none.
        seed: of what is drawn.
    """

    backbone: Backbone
    images: Sequence[Tensor]
    labels: Sequence[Any] = ()
    seed: int = 0

    def entering(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """The patch tokens (images, N, C) of all images that enter each of `layers`."""
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for images in self.images:
            for layer, tokens in self.backbone.entering(images, layers).items():
                found[layer].append(tokens)
        return {layer: torch.cat(tokens) for layer, tokens in found.items()}


class PromptModule(nn.Module):
    """A prompt, and the hooks by which it takes part in training. Each does nothing unless a method overrides it."""

    # Names of parameters, buffers and modules of this one that only training needs: no artifact stores them.
    training_only: tuple[str, ...] = ()

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Called before an epoch, counted from 0, of `epochs`; again where a run is resumed inside it, so what it sets
        must follow from these numbers alone."""

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """Scalars by name that are added to the loss of a training step. Called after the forward pass of the step.

        Args:
            images: of the step, as the model takes them: uint8 (B, 3, S, S), or for detection a list of (3, h, w).
            labels: class indices (B,), zeros and ones (B, K), or for detection a list of targets.
        """
        return {}

    def constrain(self) -> None:
        """Bring parameters that have a range back into it, in place. Called after every step and after loading."""

    def after_step(self) -> None:
        """Called after every step of the optimizer, without gradients."""
        self.constrain()

    def is_training_only(self, name: str) -> bool:
        """Whether a parameter or buffer of this module, by its name, is left out of artifacts."""
        return any(name == one or name.startswith(f"{one}.") for one in self.training_only)


class TokenPrompts(PromptModule):
    """A token prompt.

    Args:
        inserted: layer -> index of the token set that enters before it.
        after: what becomes of prompt outputs in a layer above that has no fresh tokens, see backbones/liveness.py.
    """

    any_size = True  # images of any size may come, as in detection

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

    def initialize(self, config: Any, data: TrainingImages) -> None:
        """Set the values that training starts from, without gradients; called where `config.needs_images`.

        Args:
            config: the settings of the prompt.
            data: training images and their labels.
        """

    def first_layers(self) -> list[int]:
        """The first layer that each token set enters before, in rising order."""
        return sorted({index: layer for layer, index in sorted(self.inserted.items(), reverse=True)}.values())

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


def prompted_layers(layers: str | list[int], depth: int) -> tuple[int, ...]:
    """The layers, counted from 0, that `prompt.layers` means in a backbone of `depth` layers.

    Raises:
        UserError: layers that do not exist or a spelling that is not known.

    >>> prompted_layers("last:2", depth=12)
    (10, 11)
    """
    if isinstance(layers, str):
        word, _, count = layers.partition(":")
        if layers == "all":
            return tuple(range(depth))
        if word in ("first", "last") and count.isdigit() and 1 <= int(count) <= depth:
            return tuple(range(int(count)) if word == "first" else range(depth - int(count), depth))
        raise UserError(
            f"prompt.layers={str(layers)[:80]}: write all, first:N, last:N (N from 1 to {depth}) or a list of layers"
        )
    chosen = tuple(sorted(set(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth or len(chosen) != len(layers):
        raise UserError(f"prompt.layers={str(layers)[:80]}: list distinct layers from 0 to {depth - 1}")
    return chosen


def set_per_layer(layers: str | list[int], shape: Shape) -> dict[int, int]:
    """A token set of its own for every prompted layer: layer -> index of its set.

    Raises:
        UserError: see `prompted_layers`.

    >>> set_per_layer("last:2", Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2)))
    {2: 0, 3: 1}
    """
    return {layer: index for index, layer in enumerate(prompted_layers(layers, shape.depth))}


def dropped(tokens: Tensor, share: float, batch: int, training: bool) -> Tensor:
    """Token sets (sets, P, C) after dropout: as they are, or (sets, batch, P, C) with a mask for every image.

    >>> dropped(torch.ones(2, 3, 4), 0.5, batch=5, training=True).shape
    torch.Size([2, 5, 3, 4])
    """
    if not training or share == 0:
        return tokens
    return nn.functional.dropout(tokens[:, None].expand(-1, batch, -1, -1), share)
