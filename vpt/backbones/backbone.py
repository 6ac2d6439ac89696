"""A frozen backbone: a library's network, the view on it, and its features with or without prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip import read_open_clip
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

Pool = Literal["native", "cls", "avg", "prompts", "all", "mean_then_norm", "mean_then_own_norm", "classifier"]
LATE = ("mean_then_norm", "mean_then_own_norm")  # the mean is taken before the norm; prompts count where there are any
EPS = 1e-6  # of the norm without weights, as MAE's own norms have it


class Backbone(nn.Module):
    """A network without classifier, in evaluation mode, and how to run it.

    Args:
        net: a timm network built with `num_classes=0`, or an open_clip image tower.
        library: "timm" or "open_clip".
        name: the name it was built from, for messages and artifacts.
        preprocess: what it expects of its pixels.
        fingerprint: digest of what is frozen in it, see fingerprint.py.
        text: the text side of a CLIP, where a head needs it.
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
        self.fingerprints = {fingerprint}  # of all parts that artifacts may stand on: with and without the text tower
        self.any_size = False  # whether images of other sizes than its own may come
        self.text = text
        self.notes: tuple[str, ...] = ()  # what the user should know of how it was loaded
        self.elsewhere = 0  # numbers of weights that are dealt out to several processes
        self.refusal = ""  # why token prompts cannot enter, where they cannot
        self.tower = self._read()

    def _read(self) -> Tower | None:
        try:
            if self.library == "open_clip":
                from vpt.backbones.adapters.open_clip import is_open_clip_vit

                if is_open_clip_vit(self.net):
                    return read_open_clip(self.net)
            elif self.library == "torchvision":
                self.refusal = "it is a whole detector, which takes pixel prompts only"
                return None
            elif is_timm_vit(self.net):
                return read_timm(self.net)
            self.refusal = f"{type(self.net).__name__} is not a vision transformer with one patch sequence"
        except UnreadableError as error:
            self.refusal = f"its layers are of a kind not known to vpt: {error}"
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        # The tower's views refer to modules of `net`; they are read anew from the copy.
        net = copy.deepcopy(self.net, memo)
        # The text side is only ever read.
        mine = Backbone(net, self.library, self.name, self.preprocess, self.fingerprint, self.text)
        mine.fingerprints, mine.any_size = self.fingerprints, self.any_size
        return mine.train(self.training)

    def view(self) -> Backbone:
        """The same network, not copied, under a view of its own: what one run lays around its layers (recomputed,
        compiled) stays with that run."""
        text = None if self.text is None else TextEncoder(self.text.clip, self.text.tokenizer, self.text.name)
        mine = Backbone(self.net, self.library, self.name, self.preprocess, self.fingerprint, text)
        mine.fingerprints, mine.any_size = self.fingerprints, self.any_size
        return mine

    def with_text(self, whole: Backbone) -> Backbone:
        """The same network, not copied, beside the text tower of `whole`, which is the same backbone loaded with it."""
        mine = Backbone(self.net, self.library, self.name, self.preprocess, whole.fingerprint, whole.text)
        mine.fingerprints, mine.any_size = whole.fingerprints, self.any_size
        return mine

    def at_size(self, preprocess: Preprocess) -> Backbone:
        """A view for images of another size; the backbone must have been loaded with `dynamic=True`."""
        mine = self.view()
        mine.preprocess = preprocess
        return mine

    def all_blocks(self) -> list[Block]:
        """The layers of the tower, and of a text tower that learns with it."""
        towers = (self.tower, None if self.text is None else self.text.tower)
        return [block for tower in towers if tower is not None for block in tower.blocks]

    def round_to(self, precision: str) -> None:
        """Hold what is frozen of the layers in what autocast would round it to in every pass; nothing in fp32."""
        if precision in HALVES:
            for block in self.all_blocks():
                round_frozen(block.layer, HALVES[precision])

    def with_blocks(self, change: Callable[[Block], Block]) -> None:
        """Put other views of its layers in the place of those of the tower, and of a text tower that learns with it."""
        if self.tower is not None:
            self.tower = replace(self.tower, blocks=tuple(change(block) for block in self.tower.blocks))
        if self.text is not None and self.text.tower is not None:
            text = self.text.tower
            self.text.tower = replace(text, blocks=tuple(change(block) for block in text.blocks))

    def with_drop_path(self, rate: float) -> nn.ModuleList:
        """Let layers leave out what their branches add, more often the deeper they lie, up to `rate` in the last
        (stochastic depth, Huang et al. 2016). The modules returned draw while they are in training mode.

        Raises:
            UserError: a network whose layers are not known.
        """
        tower = self.require_tower("train.drop_path")
        rates = torch.linspace(0, rate, len(tower.blocks)).tolist()
        drops = nn.ModuleList(DropPath(each) for each in rates)
        blocks = zip(tower.blocks, drops, strict=True)
        self.tower = replace(tower, blocks=tuple(replace(block, drop=drop) for block, drop in blocks))
        return drops

    @property
    def library_net(self) -> Any:
        """The network, typed as what its library made of it."""
        return self.net

    def require_tower(self, purpose: str) -> Tower:
        """The tower, or a UserError that says why `purpose` is impossible with this network."""
        if self.tower is None:
            raise UserError(
                f"backbone {self.name} takes no {purpose}: {self.refusal}; "
                "choose a ViT, or prompt=none with tuning=frozen or tuning=full"
            )
        return self.tower

    def reads(self, pool: Pool) -> Reads:
        """What pooling reads of the last layer's rows."""
        if pool in ("native", "classifier"):
            tower = self.require_tower("plan")
            return Reads(image="all" if tower.pool_rows is None else "lead")
        if pool == "cls":
            if not self.require_tower("head.pool=cls").has_class_row:
                raise UserError(f"backbone {self.name} has no class token; use head.pool=native or head.pool=avg")
            return Reads(image="lead")
        return {
            "avg": Reads(),
            "prompts": Reads(prompts=True, image="none"),
            "all": Reads(prompts=True),
            **dict.fromkeys(LATE, Reads(prompts=True)),
        }[pool]

    def feature_width(self, pool: Pool) -> int:
        """Channels of the pooled features, or classes of the backbone's own classifier."""
        if pool == "classifier":
            return int(self.library_net.num_classes)
        if self.tower is not None:
            return self.tower.features if pool == "native" else self.tower.width
        if self.library == "open_clip":
            # A convolutional tower does not name its width; one small image tells.
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
        """Pooled features of normalised images (B, 3, S, S): (B, features).

        Args:
            plan: what prompts.plan.plan made for this tower.
            pool: what becomes of the last rows.
            layers: what a prompt does in each layer; None for no prompt.
        """
        if self.tower is None:
            found: Tensor = self.library_net(images) if pool == "classifier" else self._library_features(images)
            return found
        tower = self.tower
        rows, rotary = tower.embed(images)
        lead = (tower.pool_rows or 1) if pool in ("native", "classifier") else 1
        rows, held = execute(tower, plan, rows, rotary, layers or [NOTHING] * len(plan), lead)
        if pool in ("native", "classifier"):
            return tower.pool(rows) if pool == "native" else tower.classify(rows)
        if pool in LATE:
            mean = torch.cat([rows[:, :held], rows[:, held + tower.prefix :]], dim=1).mean(1)
            if pool == "mean_then_norm":
                return nn.functional.layer_norm(mean, mean.shape[-1:], eps=EPS)
            return tower.finish(tower.norm(mean))
        rows = tower.norm(rows)
        if pool == "cls":
            return tower.finish(rows[:, 0])
        if pool == "avg":
            return tower.finish(rows[:, tower.prefix :].mean(1))
        if pool == "prompts":
            return tower.finish(rows.mean(1))
        patches = rows[:, held + tower.prefix :]
        return tower.finish(torch.cat([rows[:, :held], patches], dim=1).mean(1))

    def grids(
        self,
        images: Tensor,
        plan: Sequence[Step],
        taps: Sequence[int],
        layers: Sequence[LayerPrompt] | None = None,
    ) -> list[Tensor]:
        """Patch grids (B, C, h, w) of normalised images (B, 3, H, W), normed, one for each layer in `taps`.

        H and W are multiples of the patch; unless they are its own, the backbone was loaded with `dynamic=True`.

        Args:
            plan: made for a head that reads patches.
            taps: layers, counted from 0; the last one is always among them.
            layers: what a prompt does in each layer; None for no prompt.
        """
        tower = self.require_tower("patch grids")
        height, width = images.shape[2] // tower.patch[0], images.shape[3] // tower.patch[1]
        found: dict[int, Tensor] = {}

        def watch(layer: int, rows: Tensor, held: int) -> None:
            if layer in taps:
                last = layer == len(tower.blocks) - 1
                start = held if last and plan[layer].keep == "patches" else held + tower.prefix
                found[layer] = rows[:, start:]

        rows, rotary = tower.embed(images)
        execute(tower, plan, rows, rotary, layers or [NOTHING] * len(plan), 1, watch)
        return [tower.norm(found[layer]).transpose(1, 2).unflatten(2, (height, width)) for layer in taps]

    def _library_features(self, images: Tensor) -> Tensor:
        if self.library == "open_clip":
            return self.net(images)
        return self.library_net.forward_head(self.library_net.forward_features(images), pre_logits=True)

    def entering(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Patch rows of normalised images as they enter each of `layers`, without prompts: layer -> (B, N, C)."""
        tower = self.require_tower("token prompts")
        rows, rotary = tower.embed(images)
        found = {}
        for layer, block in enumerate(tower.blocks):
            if layer in layers:
                found[layer] = rows[:, tower.prefix :]
            rows = block.forward(rows, None, None, tower.rope(rotary, layer), tower.prefix)
        return found
