"""Base classes of all prompts and of token prompts, with their hooks.

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
from vpt.backbones.liveness import After, Step, plan
from vpt.backbones.vit_spec import Tower
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Shape of a backbone, as far as prompts depend on it."""

    depth: int  # layers
    width: int  # channels C, of the last layer
    heads: int
    patch: tuple[int, int]  # pixels
    grid: tuple[int, int]  # patches
    prefix: int = 1  # class and register tokens before the patches
    stage_widths: tuple[int, ...] = ()  # channels of each layer, if width and grid change between layers

    @classmethod
    def of(cls, tower: Tower, size: int | None = None) -> Shape:
        """The shape of a tower for square inputs of `size` pixels; default: its own input size."""
        grid = tower.grid if size is None else (size // tower.patch[0], size // tower.patch[1])
        heads = tower.blocks[0].heads
        return cls(len(tower.blocks), tower.width, heads, tower.patch, grid, tower.prefix, tower.stage_widths)


@dataclass(frozen=True)
class TrainingImages:
    """Training images for the initialisation of a prompt.

    Args:
        backbone: frozen, without the prompt.
        images: batches of normalised images (B, 3, S, S).
        labels: for each batch: class indices (B,), or zeros and ones (B, K) if images may have several labels; for
            detection a list of targets with boxes and labels. Empty if there are none.
        seed: random seed.
    """

    backbone: Backbone
    images: Sequence[Tensor]
    labels: Sequence[Any] = ()
    seed: int = 0

    def entering(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """Patch tokens (images, N, C) of all images at the input of each of `layers`."""
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for images in self.images:
            for layer, tokens in self.backbone.entering(images, layers).items():
                found[layer].append(tokens)
        return {layer: torch.cat(tokens) for layer, tokens in found.items()}

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) of normalised images in the backbone's own pooling."""
        depth = len(self.backbone.require_tower("token prompts").blocks)
        return self.backbone.features(images, plan(depth, {}, "drop", self.backbone.reads("native")))


class PromptModule(nn.Module):
    """A prompt with hooks for training. Each hook does nothing by default."""

    # Names of this module's parameters, buffers and submodules that are needed in training only and not stored.
    training_only: tuple[str, ...] = ()
    # Names of attributes with tensors of the step that is being computed: copies and pickles have none.
    of_step: tuple[str, ...] = ()
    added_features = 0  # channels added to the input of the head

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return state | {name: {} if isinstance(state[name], dict) else None for name in self.of_step}

    def set_classes(self, count: int) -> None:
        """Called with the number of classes when a classifier is built."""

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Called before an epoch, counted from 0, of `epochs`; called again if a run is resumed inside the epoch, so
        its effects must depend on these numbers only."""

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """Named scalars added to the loss of a training step. Called after the forward pass of the step.

        Args:
            images: input of the model: uint8 (B, 3, S, S), or for detection a list of (3, h, w).
            labels: class indices (B,), zeros and ones (B, K), or for detection a list of targets.
        """
        return {}

    def saw_loss(self, loss: Tensor) -> None:
        """Called with the loss (a scalar without gradients) of each pass of training, before extra losses."""

    @property
    def has_extra_losses(self) -> bool:
        """Whether there are extra losses."""
        return type(self).extra_losses is not PromptModule.extra_losses

    def all_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """The extra losses, and those of a regulariser."""
        return self.extra_losses(images, labels)

    def constrain(self) -> None:
        """Clamp bounded parameters to their range, in place. Called after every step and after loading."""

    def after_step(self) -> None:
        """Called without gradients after every step of the optimizer."""
        self.constrain()

    def is_training_only(self, name: str) -> bool:
        """Whether a parameter or buffer of this module is excluded from artifacts, by its name."""
        return any(name == one or name.startswith(f"{one}.") for one in self.training_only)


class Regularizer(nn.Module):
    """Losses that can be added to any token prompt, with parameters that only training needs; see visual/pae.py."""

    @property
    def needs_images(self) -> bool:
        """Whether it initialises the prompt, instead of the prompt itself."""
        return False

    def check(self, prompt: TokenPrompts) -> None:
        """Raise a UserError if it does not fit the prompt."""

    def initialize(self, prompt: TokenPrompts, data: TrainingImages) -> None:
        """Initialise the prompt, without gradients; called if `needs_images`."""

    def losses(self, prompt: TokenPrompts) -> Mapping[str, Tensor]:
        """Named scalars added to the loss of a training step."""
        raise NotImplementedError


class TokenPrompts(PromptModule):
    """A token prompt.

    Args:
        inserted: layer -> index of the token set that is inserted before it.
        after: how later layers without new tokens treat prompt outputs, see backbones/liveness.py.
    """

    any_size = True  # images of any size are allowed, as in detection

    def __init__(self, inserted: Mapping[int, int], after: After = "carry") -> None:
        super().__init__()
        self.inserted = dict(inserted)
        self.after: After = after
        self.regularizer: Regularizer | None = None

    def regularize(self, regularizer: Regularizer) -> None:
        """Add the losses of a regulariser. Artifacts do not contain it.

        Raises:
            UserError: it does not fit this prompt.
        """
        regularizer.check(self)
        self.regularizer = regularizer

    @property
    def has_extra_losses(self) -> bool:
        """Whether there are extra losses, or a regulariser."""
        return super().has_extra_losses or self.regularizer is not None

    def all_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """The extra losses, and those of a regulariser."""
        own = super().all_losses(images, labels)
        return own if self.regularizer is None else {**own, **self.regularizer.losses(self)}

    def is_training_only(self, name: str) -> bool:
        """Whether a parameter or buffer is excluded from artifacts: see `training_only`."""
        return name.startswith("regularizer.") or super().is_training_only(name)

    def plain_sets(self) -> Sequence[Tensor]:
        """Token sets by index, (P, C) each, without dropout."""
        training, self.training = self.training, False
        try:
            return self.sets(1)
        finally:
            self.training = training

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) with a separate dropout mask for every image.

        Sets that `adapt` computes for each image may be missing at the end.
        """
        raise NotImplementedError

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """The operations of the prompt in a layer; `plain` are those of the inserted tokens."""
        return plain

    def packed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compress the state for a file, if only a part of it is needed; inverse of `unpacked`."""
        return state

    def unpacked(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Restore a state compressed by `packed`. Other states are returned unchanged."""
        return state

    def initialize(self, config: Any, data: TrainingImages) -> None:
        """Initialise the parameters, without gradients; called if `config.needs_images`.

        Args:
            config: settings of the prompt.
            data: training images and their labels.
        """

    def first_layers(self) -> list[int]:
        """The first layer that each token set is inserted before, in increasing order."""
        return sorted({index: layer for layer, index in sorted(self.inserted.items(), reverse=True)}.values())

    def layers(self, tower: Tower, plan: Sequence[Step], batch: int) -> list[LayerPrompt]:
        """The operations of the prompt in every layer. They depend on the image only through functions, so inference
        calls this once.

        Args:
            tower: the backbone.
            plan: says which tokens must be in the sequence; the others are converted to keys and values here.
            batch: number of images, for dropout.
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
    """Layers, counted from 0, selected by `prompt.layers` in a backbone of `depth` layers.

    Raises:
        UserError: layers that do not exist, or an invalid value.

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
    """A separate token set for every prompted layer: layer -> index of its set.

    Raises:
        UserError: see `prompted_layers`.

    >>> set_per_layer("last:2", Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2)))
    {2: 0, 3: 1}
    """
    return {layer: index for index, layer in enumerate(prompted_layers(layers, shape.depth))}


def dropped(tokens: Tensor, share: float, batch: int, training: bool) -> Tensor:
    """Apply dropout to token sets (sets, P, C). In training, returns (sets, batch, P, C) with a mask for every image.

    >>> dropped(torch.ones(2, 3, 4), 0.5, batch=5, training=True).shape
    torch.Size([2, 5, 3, 4])
    """
    if not training or share == 0:
        return tokens
    return nn.functional.dropout(tokens[:, None].expand(-1, batch, -1, -1), share)
