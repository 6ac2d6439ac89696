"""Base class of prompted models: a backbone, a prompt, a head, and the declaration of trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.data.normalization import Preprocess
from vpt.prompts.base import PromptModule, TokenPrompts
from vpt.prompts.channels import ChannelMix
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.utils.errors import UserError
from vpt.utils.tensor_state import load_into, misfits, shown

Role = Literal["prompt", "pixels", "head", "bias", "lora", "backbone"]


class Prompted(nn.Module):
    """A frozen backbone with a prompt and a head.

    Args:
        backbone: a frozen backbone, or one that `apply_tuning` has prepared.
        prompt: token prompts, pixel prompts, or None.
        head: module that reads the backbone's tokens or features.
        owns_buffers: the whole backbone is trainable, so its batch statistics belong to the task too.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | PixelPrompts | None,
        head: nn.Module,
        owns_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.head = head
        self.owns_buffers = owns_buffers
        self.mean: Tensor
        self.std: Tensor
        # On the scale 0..255, so that a uint8 batch is normalised in one operation.
        pre = backbone.preprocess
        self.register_buffer("mean", torch.tensor(pre.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(pre.std).view(3, 1, 1) * 255, persistent=False)
        self.channels: ChannelMix | None = None  # in front of the backbone
        self.drop_paths = nn.ModuleList()  # of the backbone's layers, if they have any: see Backbone.with_drop_path

    def train(self, mode: bool = True) -> Prompted:
        """Set the training mode of prompt and head. The backbone stays in evaluation mode unless all of it, including
        batch statistics, is trained."""
        super().train(mode)
        self.backbone.train(mode and self.owns_buffers)
        for name, module in self.backbone.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def layers(self, steps: Sequence[Step], batch: int = 1) -> list[LayerPrompt] | None:
        """Token prompts of every layer of a plan; None without token prompts. At inference they do not depend on the
        image, and are valid until a parameter changes; in training dropout is drawn for `batch` images."""
        if not isinstance(self.prompt, TokenPrompts):
            return None
        return self.prompt.layers(self.backbone.require_tower("token prompts"), steps, batch)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the prompt after an optimiser step, for example to clamp a parameter to its range.

        Call it in your own training loop.
        """
        if self.prompt is not None:
            self.prompt.after_step()

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Update the prompt before an epoch, counted from 0; also called if a run is resumed within an epoch."""
        if self.prompt is not None:
            self.prompt.before_epoch(epoch, epochs)

    @property
    def has_extra_losses(self) -> bool:
        """Whether the prompt adds its own losses, so that the loss is not only a function of the scores."""
        return self.prompt is not None and self.prompt.has_extra_losses

    def with_extra_losses(self, loss: Tensor, images: Any, labels: Any) -> Tensor:
        """Add the losses of the prompt to the loss of a training step.

        Args:
            loss: a scalar.
            images: images of the step.
            labels: labels of the step.
        """
        if self.prompt is None:
            return loss
        self.prompt.saw_loss(loss.detach())
        for extra in self.prompt.all_losses(images, labels).values():
            loss = loss + extra
        return loss

    def set_preprocess(self, pre: Preprocess) -> None:
        """Use the preprocessing of an artifact, even if the library's default has changed."""
        self.backbone.preprocess = pre
        for buffer, value in ((self.mean, pre.mean), (self.std, pre.std)):
            buffer.copy_(torch.tensor(value).view(3, 1, 1) * 255)

    def trainable(self) -> Iterator[tuple[str, Role, nn.Parameter]]:
        """Trainable parameters, with name and role. Freezing, optimiser, saving and counting all depend on this
        declaration."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, self._role(name), parameter

    def _role(self, name: str) -> Role:
        part = name.split(".", 1)[0]
        if part == "prompt":
            return "pixels" if isinstance(self.prompt, PixelPrompts) else "prompt"
        if part == "channels":
            return "prompt"
        if part == "head":
            return getattr(self.head, "role", "head")
        if ".lora_" in name:
            return "lora"
        return "backbone" if self.owns_buffers else "bias"

    def owned_state(self) -> dict[str, Tensor]:
        """All tensors of the task: trainable parameters and buffers (masks, label mappings, and batch statistics if
        the whole backbone is trainable)."""
        owned = {name: parameter.detach() for name, _, parameter in self.trainable()}
        saved = self.state_dict()
        for name, buffer in self.named_buffers():
            if name in saved and (self.owns_buffers or not name.startswith("backbone.")):
                owned[name] = buffer
        return owned

    def stored_state(self) -> dict[str, Tensor]:
        """Tensors to store in an artifact: `owned_state` without pruned and training-only values."""
        kept = {name: value for name, value in self.owned_state().items() if not self.is_training_only(name)}
        return _changed(self.prompt, kept, "packed")

    def is_training_only(self, name: str) -> bool:
        """Whether a tensor of the prompt is excluded from artifacts, by its name."""
        part, _, rest = name.partition(".")
        return part == "prompt" and self.prompt is not None and self.prompt.is_training_only(rest)

    def load_owned(self, tensors: dict[str, Tensor]) -> None:
        """Load tensors returned by `owned_state` or `stored_state`.

        Raises:
            UserError: tensors are missing, unknown, or of another shape or type; the message names them.
        """
        head: Any = self.head
        if hasattr(head, "resize_for") and "head.labels" in tensors:  # it gets as many keys as the file
            head.resize_for(keys_in(tensors, head.width))
        owned, tensors = self.owned_state(), unpacked(self.prompt, tensors)
        owned = {name: value for name, value in owned.items() if name in tensors or not self.is_training_only(name)}
        if wrong := misfits(owned, tensors):
            raise UserError(f"the artifact does not fit the model its own header describes: see {shown(wrong)}")
        load_into(owned, tensors)
        if self.prompt is not None:
            with torch.no_grad():
                self.prompt.constrain()  # files of earlier versions contain values that were clamped in every pass


def unpacked(prompt: nn.Module | None, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, with those of a token prompt unpacked: see `TokenPrompts.packed`.

    >>> unpacked(None, {})
    {}
    """
    return _changed(prompt, tensors, "unpacked")


def _changed(
    prompt: nn.Module | None, tensors: Mapping[str, Tensor], change: Literal["packed", "unpacked"]
) -> dict[str, Tensor]:
    if not isinstance(prompt, TokenPrompts):
        return dict(tensors)
    start = "prompt."
    mine = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    others = {name: value for name, value in tensors.items() if not name.startswith(start)}
    return others | {start + name: value for name, value in getattr(prompt, change)(mine).items()}


def owned_parts(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of a prompt or a head that an artifact contains: trainable parameters and persistent buffers.

    >>> sorted(owned_parts(nn.BatchNorm1d(2)))
    ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """
    saved = module.state_dict()
    learned = {name: value for name, value in module.named_parameters() if value.requires_grad}
    owned = learned | {name: value for name, value in module.named_buffers() if name in saved}
    if isinstance(module, PromptModule):
        owned = {name: value for name, value in owned.items() if not module.is_training_only(name)}
    return owned


def keys_in(tensors: Mapping[str, Tensor], width: int) -> int:
    """Number of stored features of a head in a file.

    Raises:
        UserError: its keys and labels do not match.
    """
    labels, keys = tensors["head.labels"], tensors.get("head.keys")
    if labels.ndim != 1 or keys is None or keys.shape != (len(labels), width):
        raise UserError("the artifact does not fit the model its own header describes: see head.keys, head.labels")
    return len(labels)
