"""A network with a prompt, in the user's own training loop."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone, Pool
from vpt.backbones.fingerprint import fingerprint
from vpt.backbones.liveness import Reads, plan
from vpt.data.normalization import denormalise
from vpt.models.base import Prompted, Role
from vpt.models.classifier import plan_for
from vpt.models.header import PromptHeader
from vpt.prompts.base import PromptModule, TokenPrompts
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import write_tensors
from vpt.utils.version import own_version

HOOKS = {
    "with_extra_losses": "loss = model.with_extra_losses(loss, images, labels) before loss.backward()",
    "before_epoch": "model.before_epoch(epoch, epochs) before each epoch",
}


class Wrapped(Prompted):
    """A network with a prompt. Its inputs and outputs are those of the network.

    Created by `wrap`. Prompt and classifier belong to the task, and parameters of the network that require a gradient
    when it is saved, because the user has unfrozen them.

    Args:
        backbone: the network.
        prompt: its prompt.
        settings: of the prompt, for the file.
        classifier: names of the parameters of the network's classifier; empty if it is not trained.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | PixelPrompts,
        settings: dict[str, Any],
        classifier: Collection[str] = (),
    ) -> None:
        super().__init__(backbone, prompt, nn.Identity())
        self.settings = settings
        self.classifier = frozenset(classifier)
        self.own = {name for name, _, _ in self.trainable()}  # they belong to the task, whether frozen later or not
        self.missed = _hooks_of(prompt)
        self._loading = ""
        self.register_load_state_dict_pre_hook(_before_loading)
        self.register_load_state_dict_post_hook(_after_loading)
        self.pool: Pool = "native" if backbone.library == "open_clip" else "classifier"
        self.steps = plan_for(backbone, prompt, self.pool)
        pre = backbone.preprocess
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pre.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pre.std).view(3, 1, 1), persistent=False)

    @property
    def net(self) -> Any:
        """The original network."""
        return self.backbone.net

    def forward(self, images: Tensor) -> Tensor:
        """Output of the network for normalised images (B, 3, H, W): logits (B, classes), or features (B, C)."""
        if isinstance(self.prompt, PixelPrompts):
            mean, std = self.pixel_mean, self.pixel_std
            return self.net(self.prompt(denormalise(images, mean, std), mean, std).to(images.dtype))
        self._check_size(images)
        return self.backbone.features(images, self.steps, self.pool, self.layers(self.steps, images.shape[0]))

    def grids(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Normalised patch grids (B, C, h, w) of each of `layers`, for dense tasks such as segmentation and depth.

        Images of another size than the network's own need a network created with `dynamic_img_size=True`.
        """
        tokens = self.tokens
        depth = len(self.backbone.require_tower("token prompts").blocks)
        if wrong := [layer for layer in layers if not -depth <= layer < depth]:
            raise UserError(
                f"there is no layer {wrong[0]}: count from 0 to {depth - 1}, or from the end, -1 to -{depth}"
            )
        self._check_size(images)
        steps = plan(depth, tokens.inserted, tokens.after, Reads(image="patches"))
        taps = [layer % depth for layer in layers]
        return self.backbone.grids(images, steps, taps, self.layers(steps, images.shape[0]))

    def _check_size(self, images: Tensor) -> None:
        size = stated_size(self.net)
        if size is not None and not self.tokens.any_size and tuple(images.shape[2:]) != size:
            raise UserError(f"this prompt needs images of {size[0]} x {size[1]} pixels, those of the network")

    @property
    def tokens(self) -> TokenPrompts:
        """The token prompt; UserError for a pixel prompt."""
        if not isinstance(self.prompt, TokenPrompts):
            raise UserError("pixel prompts have no tokens; wrap with prompt='deep' or another token prompt")
        return self.prompt

    def _role(self, name: str) -> Role:
        return "head" if name.startswith("backbone.") else super()._role(name)

    @property
    def pretrained_cfg(self) -> Any:
        """That of the network, for timm's `resolve_model_data_config`."""
        return self.net.pretrained_cfg

    @property
    def num_classes(self) -> int:
        """Number of the network's outputs, 0 without a classifier."""
        return int(self.net.num_classes)

    def owned_state(self) -> dict[str, Tensor]:
        """All tensors of the task, those that are frozen at the moment too."""
        mine = {name: value.detach() for name, value in self.named_parameters() if name in self.own}
        return {**mine, **super().owned_state()}

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """See Prompted.before_epoch."""
        self.missed -= {"before_epoch"}
        super().before_epoch(epoch, epochs)

    def with_extra_losses(self, loss: Tensor, images: Any, labels: Any) -> Tensor:
        """See Prompted.with_extra_losses."""
        self.missed -= {"with_extra_losses"}
        return super().with_extra_losses(loss, images, labels)

    def after_step(self) -> None:
        """See Prompted.after_step. Warns, once, if the training loop leaves out what the prompt needs."""
        if self.missed:
            calls = [text for name, text in HOOKS.items() if name in self.missed]
            warnings.warn(
                f"this prompt is trained as its paper says only if the loop also calls {' and '.join(calls)}: see "
                "docs/own-loop.md",
                stacklevel=2,
            )
            self.missed = frozenset()
        super().after_step()

    def learning(self) -> Iterator[nn.Parameter]:
        """Trainable parameters, for an optimiser. From now on they belong to the task, frozen or not."""
        found = list(self.trainable())
        self.own |= {name for name, _, _ in found}
        return (parameter for _, _, parameter in found)

    def save(self, path: str | Path) -> Path:
        """Save prompt, classifier and unfrozen parameters to a safetensors file, atomically; see `load_prompt`."""
        kind = {"kind": PromptHeader.KIND, "format": PromptHeader.FORMAT, "vpt": own_version()}
        header: dict[str, Any] = {**kind, **self.settings}
        header["backbone"] = {"name": self.backbone.name, "fingerprint": self.backbone.fingerprint}
        return write_tensors(path, self.stored_state(), header)


def stated_size(net: Any) -> tuple[int, ...] | None:
    """Height and width of the images that a network says it takes, if it does."""
    size = getattr(getattr(net, "patch_embed", None), "img_size", None) or getattr(net, "image_size", None)
    return None if size is None else tuple(size) if isinstance(size, Sequence) else (size, size)


def _hooks_of(prompt: nn.Module) -> frozenset[str]:
    """What a prompt needs of a training loop besides `after_step`."""
    found = set()
    if isinstance(prompt, PromptModule):
        found |= {"with_extra_losses"} if prompt.has_extra_losses else set()
        found |= {"before_epoch"} if type(prompt).before_epoch is not PromptModule.before_epoch else set()
    return frozenset(found)


def _before_loading(model: nn.Module, *_: Any) -> None:
    """Before `load_state_dict`: what the network is now, perhaps in lower precision than when it was wrapped."""
    assert isinstance(model, Wrapped)
    model._loading = fingerprint(model.net, without=model.classifier)


def _after_loading(model: nn.Module, _: Any) -> None:
    """Take the fingerprint anew if the weights of the network have changed, unless the user trains some of them."""
    assert isinstance(model, Wrapped)
    learned = {name.removeprefix("backbone.net.") for name in model.owned_state() if name.startswith("backbone.")}
    if not learned <= model.classifier:
        return
    found = fingerprint(model.net, without=model.classifier)
    if found != model._loading:
        model.backbone.fingerprint = found
        model.backbone.fingerprints = {found}
