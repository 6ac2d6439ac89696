"""Prompted classifier: frozen backbone, prompt and head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import LATE, Backbone, Pool
from vpt.backbones.factory import load_backbone
from vpt.backbones.layer_prompt import LayerPrompt, lowest_prompted
from vpt.backbones.liveness import Step, plan
from vpt.backbones.peft import apply_tuning
from vpt.backbones.pos_embed import refuse_many_patches
from vpt.config import ClipPrompt, FullTuning, RunConfig, TptPrompt, ZeroShotHead
from vpt.data.normalization import normalise
from vpt.heads.registry import build_head
from vpt.heads.unknown import UnknownScore
from vpt.models.base import Prompted
from vpt.prompts.base import TokenPrompts
from vpt.prompts.channels import ChannelMix
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_prompt
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    from vpt.heads.zero_shot import ZeroShot


class PromptedModel(Prompted):
    """Maps uint8 images from the loader to logits.

    Args:
        backbone: a frozen backbone, or one that `apply_tuning` has prepared.
        prompt: token prompts, pixel prompts, or None.
        head: maps pooled features or tokens to logits.
        pool: what the head reads.
        owns_buffers: the whole backbone is trainable, so its batch statistics belong to the task too.
        test_time: settings of test-time tuning, which tunes the context on views of every image; None without it.
        unknown: score of how unlike the training images an image is, from the input of the head; None without it.

    Raises:
        UserError: token prompts on a network without a token sequence, or a head that reads missing tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | PixelPrompts | None,
        head: nn.Module,
        pool: Pool = "native",
        owns_buffers: bool = False,
        test_time: TptPrompt | None = None,
        unknown: UnknownScore | None = None,
    ) -> None:
        super().__init__(backbone, prompt, head, owns_buffers)
        self.pool: Pool = pool
        self.unknown = unknown
        self.test_time = test_time
        self.steps = plan_for(backbone, prompt, pool)

    @property
    def image_size(self) -> int:
        """Side of the square images expected from the loader, in pixels."""
        return self.prompt.image_size if isinstance(self.prompt, PixelPrompts) else self.backbone.preprocess.size

    @property
    def image_channels(self) -> int:
        """Channels of the images expected from the loader."""
        return 3 if self.channels is None else self.channels.count

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise uint8 images (B, C, S, S) for the backbone, with the pixel prompt if there is one: (B, 3, S, S)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.image_channels:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be uint8 (B, {self.image_channels}, S, S), found {found}")
        if self.channels is not None:
            images = self.channels(images, self.mean)
        if isinstance(self.prompt, PixelPrompts):
            return self.prompt(images.to(self.mean.dtype) / 255, self.mean / 255, self.std / 255)
        return normalise(images, self.mean, self.std)

    def constants(self, batch: int = 1) -> list[LayerPrompt] | None:
        """Token prompts of every layer of the model's own plan: see `layers`."""
        return self.layers(self.steps, batch)

    def features(self, images: Tensor, constants: Sequence[LayerPrompt] | None = None) -> Tensor:
        """Input of the head (B, features) for uint8 images."""
        layers = self.constants(images.shape[0]) if constants is None else constants
        return self.backbone.features(self.normalise(images), self.steps, self.pool, layers)

    @property
    def first_prompted(self) -> int:
        """The lowest layer in which the prompt does something; 0 without token prompts."""
        layers = self.constants()
        return 0 if layers is None else lowest_prompted(layers, len(layers))

    def tokens_below(self, layer: int, images: Tensor) -> Tensor:
        """Tokens (B, N, C) of uint8 images at the input of a layer; they are constant if no layer below has prompts."""
        return self.backbone.tokens_below(layer, self.normalise(images), self.steps)[0]

    def forward_above(self, layer: int, images: Tensor) -> Callable[[Tensor], Tensor]:
        """A function from the result of `tokens_below` to logits, for images of the same size as `images`."""
        rotary = self.backbone.tokens_below(0, self.normalise(images[:1]), self.steps)[1]

        def forward(tokens: Tensor) -> Tensor:
            layers = self.constants(len(tokens))
            return self.head(self.backbone.features_above(layer, tokens, rotary, self.steps, self.pool, layers))

        return forward

    def forward(self, images: Tensor, constants: Sequence[LayerPrompt] | None = None) -> Tensor:
        """Logits (B, classes) of uint8 images (B, 3, S, S).

        Args:
            constants: result of `constants()`, so that inference computes it only once.

        With test-time tuning images are views (B, V, 3, S, S).
        """
        if self.test_time is not None:
            return self.ready()(images)
        return self.head(self.features(images, constants))

    def ready(self) -> Callable[[Tensor], Tensor]:
        """The model for inference; parts that do not depend on the image are computed once."""
        layers = self.constants()
        if self.test_time is not None:
            from vpt.heads.tpt import tuning_forward

            how, scorer = self.test_time, cast("ZeroShot", self.head)
            return tuning_forward(lambda images: self.features(images, layers), scorer, how.share, how.lr, how.steps)
        head = self.ready_head()
        return lambda images: head(self.features(images, layers))

    def ready_head(self) -> Callable[[Tensor], Tensor]:
        """The head for inference, from features (B, D) to logits (B, classes); text is encoded once."""
        ready: Callable[[], Callable[[Tensor], Tensor]] | None = getattr(self.head, "ready", None)
        return self.head if ready is None else ready()

    def ready_outputs(self) -> Callable[[Tensor], Tensor]:
        """From features (B, D) to logits and, if there is an `unknown`, its score as the last column."""
        head, unknown = self.ready_head(), self.unknown
        if unknown is None:
            return head

        def outputs(features: Tensor) -> Tensor:
            logits = head(features)
            return torch.cat([logits.float(), unknown(features, logits)[:, None]], 1)

        return outputs

    def with_names(self, names: Sequence[str]) -> PromptedModel:
        """A new model for other class names, on the same backbone; this one does not change.

        Raises:
            UserError: names that the zero-shot head does not support.
        """
        shared = (self.backbone, self.backbone.text)
        mine = copy.deepcopy(self, {id(part): part for part in shared})
        cast("ZeroShot", mine.head).set_names(names)
        return mine


def plan_for(backbone: Backbone, prompt: nn.Module | None, pool: Pool) -> tuple[Step, ...]:
    """The liveness plan of a prompt in a backbone, for a head that reads `pool`; empty for a network without a token
    sequence.

    Raises:
        UserError: token prompts on such a network, or a head that reads missing tokens.
    """
    if not isinstance(prompt, TokenPrompts):
        if pool in ("prompts", "all", "native_prompts"):
            raise UserError(f"head.pool={pool} reads prompt tokens, but there are none; use head.pool=native")
        if backbone.tower is None:
            if pool not in ("native", "classifier"):
                backbone.require_tower(f"head.pool={pool}")
            return ()
        return plan(len(backbone.tower.blocks), {}, "drop", backbone.reads(pool))
    tower = backbone.require_tower("token prompts")
    reads = backbone.reads(pool)
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, reads)
    if reads.prompts and pool not in LATE and not (steps[-1].insert is not None or steps[-1].carried):
        raise UserError(
            f"head.pool={pool} reads prompt tokens of the last layer, but the prompt leaves none there "
            "(prompt.after=drop, or prompts outside the sequence); use head.pool=native"
        )
    return steps


def backbone_for(config: RunConfig) -> Backbone:
    """Load the backbone of a run, with its classifier or its text encoder if the head needs it."""
    return load_backbone(
        config.backbone,
        classifier=config.head.needs_classifier,
        text=config.head.needs_text,
    )


def build_model(config: RunConfig, backbone: Backbone, classes: Sequence[str]) -> PromptedModel:
    """Add prompt and head to a backbone and mark trainable parameters. `train.seed` initialises new parameters.

    Args:
        config: configuration of the run.
        backbone: a new backbone from `backbone_for`; tuning changes it.
        classes: names of the classes.

    Raises:
        UserError: a prompt that the backbone does not support, layers that do not exist, or pooling of missing tokens.

    >>> from vpt.config import load_config
    >>> words = ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "prompt.tokens=2"]
    >>> config = load_config(overrides=words)
    >>> model = build_model(config, backbone_for(config), classes=["cat", "dog", "owl"])
    >>> sum(parameter.numel() for _, _, parameter in model.trainable())
    5187
    """
    head: nn.Module
    pool = pool_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        if isinstance(config.prompt, ClipPrompt):
            from vpt.models.clip import build_learner

            prompt, head = build_learner(config, backbone, classes)
            backbone = apply_tuning(config.tuning, backbone)
            test_time = config.prompt if isinstance(config.prompt, TptPrompt) else None
            full, unknown = isinstance(config.tuning, FullTuning), unknown_of(config, backbone, prompt)
            model = PromptedModel(backbone, prompt, head, pool, full, test_time, unknown)
            return _with_channels(model, config)
        own = build_prompt(config.prompt, backbone)
        if own is not None:
            own.set_classes(len(classes))
        backbone = apply_tuning(config.tuning, backbone)
        if isinstance(config.head, ZeroShotHead):
            from vpt.models.clip import build_zero_shot

            head = build_zero_shot(config, backbone, classes)
        else:
            added = 0 if own is None else own.added_features
            head = build_head(config.head, backbone.feature_width(pool) + added, len(classes))
        unknown = unknown_of(config, backbone, own)
    full = isinstance(config.tuning, FullTuning)
    return _with_channels(PromptedModel(backbone, own, head, pool, full, unknown=unknown), config)


def unknown_of(
    config: RunConfig, backbone: Backbone, prompt: nn.Module | None, device: str = "cpu"
) -> UnknownScore | None:
    """The score of unknown images that a run asks for, before it is fitted."""
    if config.metrics.unknown is None:
        return None
    width = backbone.feature_width(pool_of(config)) + getattr(prompt, "added_features", 0)
    return UnknownScore(width, device)


def _with_channels(model: PromptedModel, config: RunConfig) -> PromptedModel:
    count, learned = config.data.channels or 3, config.backbone.channels == "learned"
    if learned or count != 3:
        model.channels = ChannelMix(count, learned)
    return model


def classifier_skeleton(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | PixelPrompts | None, nn.Module]:
    """Prompt and head of a model from `build_model`, on the meta device, without what an artifact does not contain.

    Raises:
        UserError: settings that do not fit the backbone.
    """
    if backbone.tower is not None:
        refuse_many_patches(backbone.preprocess.size, backbone.tower.patch[0], backbone.name)
    # The feature width of some backbones is found by a forward pass, which is not possible on the meta device.
    features = backbone.feature_width(pool_of(config))
    with torch.device("meta"):
        if isinstance(config.prompt, ClipPrompt):
            from vpt.models.clip import learner_skeleton

            return learner_skeleton(config, backbone, classes)
        own = build_prompt(config.prompt, backbone)
        features += 0 if own is None else own.added_features
        fixed = isinstance(config.head, ZeroShotHead)
        return own, nn.Identity() if fixed else build_head(config.head, features, len(classes))


def pool_of(config: RunConfig) -> Pool:
    """What the head of a run reads."""
    return cast(Pool, config.prompt.reads or config.head.reads)
