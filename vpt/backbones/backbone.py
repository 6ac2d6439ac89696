"""A frozen backbone: the library's network, a view of its layers, and its features with or without prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip import read_open_clip
from vpt.backbones.adapters.swin import is_swin, read_swin
from vpt.backbones.adapters.timm import UnreadableError, is_timm_vit, read_timm
from vpt.backbones.block import Block
from vpt.backbones.forward import execute
from vpt.backbones.layer_prompt import NOTHING, LayerPrompt
from vpt.backbones.liveness import Reads, Step
from vpt.backbones.quantization.linear import round_frozen
from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.vit_spec import Tower
from vpt.data.normalization import Preprocess
from vpt.utils.device import HALVES
from vpt.utils.errors import UserError

Pool = Literal[
    "native", "cls", "avg", "prompts", "all", "mean_then_norm", "mean_then_own_norm", "native_prompts", "classifier"
]
LATE = ("mean_then_norm", "mean_then_own_norm")  # mean over patches, and prompts if there are any, before the norm
EPS = 1e-6  # of the norm without weights, equal to that of MAE's own norms


class Backbone(nn.Module):
    """A network without classifier, in evaluation mode, that can run with prompts.

    Args:
        net: a timm network created with `num_classes=0`, or an open_clip image tower.
        library: "timm" or "open_clip".
        name: the name it was created from, for messages and artifacts.
        preprocess: the preprocessing of images that it expects.
        fingerprint: digest of its frozen parts, see fingerprint.py.
        text: text encoder of a CLIP model, if a head needs it.
    """

    def __init__(
        self,
        net: nn.Module,
        library: str,
        name: str,
        preprocess: Preprocess,
        fingerprint: str = "",
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.library = library
        self.name = name
        self.preprocess = preprocess
        self.fingerprint = fingerprint
        self.fingerprints = {fingerprint}  # accepted from artifacts: with and without the text tower
        self.any_size = False  # whether it accepts images of other sizes than its own
        self.text = text
        self.notes: tuple[str, ...] = ()  # messages for the user about how it was loaded
        self.refusal = ""  # why it does not support token prompts, if so
        self.tower = self._read()

    def _read(self) -> Tower | None:
        try:
            if self.library == "open_clip":
                from vpt.backbones.adapters.open_clip import is_open_clip_vit

                if is_open_clip_vit(self.net):
                    return read_open_clip(self.net)
            elif self.library == "torchvision":
                self.refusal = "it is a complete detector, which supports only pixel prompts"
                return None
            elif is_timm_vit(self.net):
                return read_timm(self.net)
            elif is_swin(self.net):
                return read_swin(self.net)
            self.refusal = f"{type(self.net).__name__} is not a vision transformer with one patch sequence"
        except UnreadableError as error:
            self.refusal = f"its layers are of a type unknown to vpt: {error}"
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        # The tower's views refer to modules of `net`; they are created again for the copy.
        net = copy.deepcopy(self.net, memo)
        # The text encoder is never modified, so it is shared.
        mine = Backbone(net, self.library, self.name, self.preprocess, self.fingerprint, self.text)
        mine.fingerprints, mine.any_size = self.fingerprints, self.any_size
        return mine.train(self.training)

    def view(self) -> Backbone:
        """A new view of the same network, not copied; what a run wraps around its layers (activation checkpointing,
        compilation) affects only that view."""
        text = None if self.text is None else TextEncoder(self.text.clip, self.text.tokenizer, self.text.name)
        mine = Backbone(self.net, self.library, self.name, self.preprocess, self.fingerprint, text)
        mine.fingerprints, mine.any_size = self.fingerprints, self.any_size
        return mine

    def with_text(self, whole: Backbone) -> Backbone:
        """The same network, not copied, with the text encoder of `whole`: the same backbone loaded with text."""
        mine = Backbone(self.net, self.library, self.name, self.preprocess, whole.fingerprint, whole.text)
        mine.fingerprints, mine.any_size = whole.fingerprints, self.any_size
        return mine

    def at_size(self, preprocess: Preprocess) -> Backbone:
        """A view for images of another size; the backbone must have been loaded with `dynamic=True`."""
        mine = self.view()
        mine.preprocess = preprocess
        return mine

    def all_blocks(self) -> list[Block]:
        """Layers of the image tower, and of a text tower that is trained with it."""
        towers = (self.tower, None if self.text is None else self.text.tower)
        return [block for tower in towers if tower is not None for block in tower.blocks]

    def round_to(self, precision: str) -> None:
        """Store frozen weights of the layers in the dtype to which autocast rounds them; does nothing for fp32."""
        if precision in HALVES:
            for block in self.all_blocks():
                round_frozen(block.layer, HALVES[precision])

    def with_blocks(self, change: Callable[[Block], Block]) -> None:
        """Replace the views of all layers by `change(view)`, also in a text tower trained with the image tower."""
        if self.tower is not None:
            self.tower = replace(self.tower, blocks=tuple(change(block) for block in self.tower.blocks))
        if self.text is not None and self.text.tower is not None:
            text = self.text.tower
            self.text.tower = replace(text, blocks=tuple(change(block) for block in text.blocks))

    def with_drop_path(self, rate: float) -> nn.ModuleList:
        """Add stochastic depth (Huang et al. 2016) with rates increasing with depth, up to `rate` in the last layer.

        The returned modules drop branches while they are in training mode.

        Raises:
            UserError: the layers of the network are not supported.
        """
        tower = self.require_tower("train.drop_path")
        rates = torch.linspace(0, rate, len(tower.blocks)).tolist()
        drops = nn.ModuleList(DropPath(each) for each in rates)
        blocks = zip(tower.blocks, drops, strict=True)
        self.tower = replace(tower, blocks=tuple(replace(block, drop=drop) for block, drop in blocks))
        return drops

    @property
    def library_net(self) -> Any:
        """The network, typed as Any."""
        return self.net

    def require_tower(self, purpose: str) -> Tower:
        """The tower, or a UserError that says why this network does not support `purpose`."""
        if self.tower is None:
            raise UserError(
                f"backbone {self.name} does not support {purpose}: {self.refusal}; "
                "choose a ViT, or prompt=none with tuning=frozen or tuning=full"
            )
        return self.tower

    def require_grid(self, purpose: str) -> Tower:
        """The tower, or a UserError if `purpose` needs the same patch grid and width in all layers."""
        tower = self.require_tower(purpose)
        if tower.stage_widths:
            raise UserError(
                f"backbone {self.name} does not support {purpose}: its patch grid changes between layers; choose a ViT"
            )
        return tower

    def reads(self, pool: Pool) -> Reads:
        """Which tokens of the last layer pooling reads."""
        if pool in ("native", "classifier"):
            tower = self.require_tower("plan")
            return Reads(image="all" if tower.pool_rows is None else "lead")
        if pool == "cls":
            if not self.require_tower("head.pool=cls").has_class_row:
                raise UserError(f"backbone {self.name} has no class token; use head.pool=native or head.pool=avg")
            return Reads(image="lead")
        if pool == "native_prompts":
            return replace(self.reads("native"), prompts=True)
        return {
            "avg": Reads(),
            "prompts": Reads(prompts=True, image="none"),
            "all": Reads(prompts=True),
            **dict.fromkeys(LATE, Reads(prompts=True)),
        }[pool]

    def feature_width(self, pool: Pool) -> int:
        """Channels of the pooled features, or number of classes of the backbone's own classifier."""
        if pool == "classifier":
            return int(self.library_net.num_classes)
        if pool == "native_prompts":
            tower = self.require_tower("prompt tokens as features")
            return tower.features + tower.width
        if self.tower is not None:
            return self.tower.features if pool == "native" else self.tower.width
        if self.library == "open_clip":
            # A convolutional tower has no attribute for its width; run one small image.
            with torch.no_grad():
                size, like = self.preprocess.size, next(self.net.parameters())
                return int(self.net(like.new_zeros(1, 3, size, size)).shape[1])
        return int(self.library_net.head_hidden_size)

    def features(
        self,
        images: Tensor,
        plan: Sequence[Step],
        pool: Pool = "native",
        layers: Sequence[LayerPrompt] | None = None,
    ) -> Tensor:
        """Pooled features of normalised images (B, 3, S, S): (B, features). If the prompt has query tokens, their
        outputs follow; these, layer by layer, and the pooled features have norm 1.

        Args:
            plan: the liveness plan for this tower, made by prompts.plan.plan.
            pool: how the tokens of the last layer are pooled.
            layers: what a prompt does in each layer; None for no prompt.
        """
        if self.tower is None:
            found: Tensor = self.library_net(images) if pool == "classifier" else self._library_features(images)
            return found
        tokens, rotary = self.tower.embed(images)
        return self.features_above(0, tokens, rotary, plan, pool, layers)

    def tokens_below(self, layer: int, images: Tensor, plan: Sequence[Step]) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) of normalised images at the input of a layer, without prompts below it, and the rotary
        embedding of images of this size."""
        tower = self.require_tower("token prompts")
        tokens, rotary = tower.embed(images)
        return execute(tower, plan, tokens, rotary, [NOTHING] * len(plan), 1, stop=layer)[0], rotary

    def features_above(
        self,
        layer: int,
        tokens: Tensor,
        rotary: Tensor | None,
        plan: Sequence[Step],
        pool: Pool = "native",
        layers: Sequence[LayerPrompt] | None = None,
    ) -> Tensor:
        """Pooled features (B, features) of what `tokens_below` returned for that layer; arguments as in `features`."""
        tower = self.require_tower("token prompts")
        lead = (tower.pool_rows or 1) if pool in ("native", "native_prompts", "classifier") else 1
        outputs: list[Tensor] = []
        layers = layers or [NOTHING] * len(plan)
        tokens, num_prompts = execute(tower, plan, tokens, rotary, layers, lead, outputs=outputs, start=layer)
        pooled = self.pooled(tokens, num_prompts, pool)
        if not outputs:
            return pooled
        pieces = [pooled, *(each.flatten(1) for each in outputs)]
        return torch.cat([nn.functional.normalize(piece, dim=1) for piece in pieces], dim=1)

    def pooled(self, tokens: Tensor, num_prompts: int, pool: Pool) -> Tensor:
        """Pooled features of the tokens of the last layer that its plan keeps, before the final norm; the first
        `num_prompts` of them are prompt tokens."""
        tower = self.require_tower("pooling")
        if pool in ("native", "classifier"):
            return tower.pool(tokens) if pool == "native" else tower.classify(tokens)
        if pool == "native_prompts":
            prompts = tower.norm(tokens[:, :num_prompts]).mean(1)
            return torch.cat([tower.pool(tokens[:, num_prompts:]), prompts], dim=1)
        if pool in LATE:
            mean = torch.cat([tokens[:, :num_prompts], tokens[:, num_prompts + tower.prefix :]], dim=1).mean(1)
            if pool == "mean_then_norm":
                return nn.functional.layer_norm(mean, mean.shape[-1:], eps=EPS)
            return tower.finish(tower.norm(mean))
        tokens = tower.norm(tokens)
        if pool == "cls":
            return tower.finish(tokens[:, 0])
        if pool == "avg":
            return tower.finish(tokens[:, tower.prefix :].mean(1))
        if pool == "prompts":
            return tower.finish(tokens.mean(1))
        patches = tokens[:, num_prompts + tower.prefix :]
        return tower.finish(torch.cat([tokens[:, :num_prompts], patches], dim=1).mean(1))

    def grids(
        self,
        images: Tensor,
        plan: Sequence[Step],
        taps: Sequence[int],
        layers: Sequence[LayerPrompt] | None = None,
    ) -> list[Tensor]:
        """Patch grids (B, C, h, w) of normalised images (B, 3, H, W) after the final norm, one per layer in `taps`.

        H and W are multiples of the patch size; sizes other than its own need a backbone loaded with `dynamic=True`.

        Args:
            plan: a plan for a head that reads patches.
            taps: layer indices from 0; the last layer must be among them.
            layers: what a prompt does in each layer; None for no prompt.
        """
        tower = self.require_grid("patch grids")
        height, width = images.shape[2] // tower.patch[0], images.shape[3] // tower.patch[1]
        found: dict[int, Tensor] = {}

        def watch(layer: int, tokens: Tensor, num_prompts: int) -> None:
            if layer in taps:
                last = layer == len(tower.blocks) - 1
                start = num_prompts if last and plan[layer].keep == "patches" else num_prompts + tower.prefix
                found[layer] = tokens[:, start:]

        tokens, rotary = tower.embed(images)
        execute(tower, plan, tokens, rotary, layers or [NOTHING] * len(plan), 1, watch)
        return [tower.norm(found[layer]).transpose(1, 2).unflatten(2, (height, width)) for layer in taps]

    def _library_features(self, images: Tensor) -> Tensor:
        if self.library == "open_clip":
            return self.net(images)
        return self.library_net.forward_head(self.library_net.forward_features(images), pre_logits=True)

    def entering(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Patch tokens of normalised images at the input of each of `layers`, without prompts: layer -> (B, N, C)."""
        tower = self.require_tower("token prompts")
        tokens, rotary = tower.embed(images)
        found = {}
        for layer, block in enumerate(tower.blocks):
            if layer in layers:
                found[layer] = tokens[:, tower.prefix :]
            tokens = block.forward(tokens, None, None, tower.rope(rotary, layer), tower.prefix)
        return found
