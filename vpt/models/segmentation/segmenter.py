"""Prompted segmenter: frozen backbone, prompt, and a head on patch grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Reads, plan
from vpt.backbones.peft import apply_tuning
from vpt.backbones.pos_embed import MOST_PATCHES
from vpt.config import FullTuning, RunConfig
from vpt.config.heads_segmentation import MaskHead
from vpt.data.normalization import normalise
from vpt.heads.segmentation.divided_norm import DividedBatchNorm
from vpt.models.base import Prompted
from vpt.models.detection.detector import dynamic_backbone, square_tower, tap_layers, token_prompt
from vpt.models.detection.same_size_batches import each_with_its_like
from vpt.prompts.base import TokenPrompts
from vpt.utils.distributed import DividedSum
from vpt.utils.errors import UserError

Size = tuple[int, int]  # height and width, in pixels


class Segmenter(Prompted):
    """Scores of classes for each pixel of uint8 images of any size in whole patches.

    Args:
        backbone: backbone loaded with `dynamic=True`.
        prompt: token prompts or None.
        head: module from grids (B, C, h, w), one for each layer of `taps`, to scores (B, K, h', w').
        taps: layers whose patch grids are read, counted from 0, in ascending order.
        window: side in pixels of the window that slides over larger images in `segment`; None for whole images.
        stride: steps of the window, in pixels.
        owns_buffers: the whole backbone is trainable.
        size: short side of the images in pixels; default: the backbone's own.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenPrompts | None,
        head: nn.Module,
        taps: Sequence[int],
        window: int | None = None,
        stride: int | None = None,
        owns_buffers: bool = False,
        size: int | None = None,
    ) -> None:
        super().__init__(backbone, prompt, head, owns_buffers)
        tower = backbone.require_tower("patch grids")
        inserted, after = ({}, "drop") if prompt is None else (prompt.inserted, prompt.after)
        self.taps = tuple(taps)
        self.size = size or backbone.preprocess.size
        self.window, self.stride = window, stride or window
        self.steps = plan(len(tower.blocks), inserted, after, Reads(image="patches"))

    def forward(self, images: Tensor, layers: Sequence[LayerPrompt] | None = None) -> Tensor:
        """Scores (B, K, H, W) of uint8 images (B, 3, H, W), whose sides are multiples of the patch size.

        Args:
            images: the images.
            layers: prompts from `self.layers`, to compute them once for several batches; default: compute them.
        """
        return _resized(self.coarse(images, layers), (images.shape[2], images.shape[3]))

    def coarse(self, images: Tensor, layers: Sequence[LayerPrompt] | None = None) -> Tensor:
        """The head's own scores (B, K, h, w) of uint8 images (B, 3, H, W), not yet upsampled."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (B, 3, H, W), found {images.dtype} {tuple(images.shape)}")
        if layers is None:
            layers = self.layers(self.steps, len(images))
        normal = normalise(images, self.mean, self.std)
        scores: Tensor = self.head(self.backbone.grids(normal, self.steps, self.taps, layers))
        return scores

    def loss(
        self, images: Sequence[Tensor], masks: Sequence[Tensor], criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The loss of uint8 images (3, h, w), at the size of their masks (h', w').

        Args:
            images: may have several sizes; those of one size are computed together.
            masks: class indices, and `IGNORE`.
            criterion: function of scores (B, K, ...) and masks (B, ...), as from `segmentation_loss`.
        """
        groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
            groups.setdefault((image.shape, mask.shape), []).append(place)
        scores, wanted = [], []
        for (_, shape), places in groups.items():
            coarse = self.coarse(torch.stack([images[place] for place in places]))
            scores.append(_resized(coarse, (shape[0], shape[1])))
            wanted.append(torch.stack([masks[place] for place in places]))
        if len(groups) == 1:
            return criterion(scores[0], wanted[0])
        rows = [part.transpose(0, 1).flatten(1) for part in scores]  # all pixels as one row (K, N)
        return criterion(torch.cat(rows, 1)[None], torch.cat([part.flatten() for part in wanted])[None])

    @torch.no_grad()
    def segment(self, images: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Scores (K, H, W) of uint8 images (3, h, w), at the original height and width of each.

        Images of equal size are computed together; the result does not depend on the other images.
        """
        return [_resized(scores[None], size)[0] for scores, size in zip(self.scores(images), sizes, strict=True)]

    @torch.no_grad()
    def scores(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Scores (K, h, w) of each image as `segment` computes them, before they get their final size; `read_out` makes
        classes of them without all scores at that size."""
        self.eval()
        layers = self.layers(self.steps)
        return each_with_its_like(
            images, lambda image: image.shape, lambda some: list(self._slide(torch.stack(some), layers))
        )

    def divide(self, total: DividedSum) -> None:
        """Compute batch norms over the images of all processes, for training in several."""
        for module in self.head.modules():
            if isinstance(module, DividedBatchNorm):
                module.total = total

    def _slide(self, images: Tensor, layers: Sequence[LayerPrompt] | None) -> Tensor:
        """Scores of whole images, (B, K, h, w), or at their own size the mean over windows."""
        high, wide = images.shape[2:]
        if self.window is None or self.stride is None or max(high, wide) <= self.window:
            return self.coarse(images, layers)
        total, counts = None, images.new_zeros(1, 1, high, wide, dtype=torch.float32)
        for top in starts(high, self.window, self.stride):
            for left in starts(wide, self.window, self.stride):
                place = (..., slice(top, top + self.window), slice(left, left + self.window))
                part = self.forward(images[place], layers).float()
                if total is None:
                    total = part.new_zeros(len(images), part.shape[1], high, wide)
                total[place] += part
                counts[place] += 1
        assert total is not None
        return total / counts


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, so that they cover it; the last one ends with it.

    >>> starts(100, 40, 25), starts(30, 40, 25)
    ([0, 25, 50, 60], [0])
    """
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def _resized(scores: Tensor, size: Size) -> Tensor:
    if scores.shape[2:] == size:
        return scores
    return F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)


def build_segmenter(config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Segmenter:
    """Build a segmenter and mark trainable parameters. `train.seed` initialises new parameters.

    Args:
        config: configuration of the run.
        classes: names of the classes.
        backbone: a backbone from `dynamic_backbone`; tuning changes it. Default: load one.

    Raises:
        UserError: a backbone without patches, layers that do not exist, or images of too many patches.
    """
    head = config.head
    assert isinstance(head, MaskHead)
    backbone = backbone or dynamic_backbone(config)
    tower = square_tower(backbone, "segmentation")
    taps = tap_layers(head.taps, len(tower.blocks))
    patch = tower.patch[0]
    refuse_many_patches(head, backbone.preprocess.size, patch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        prompt = token_prompt(config, tower)
        backbone = apply_tuning(config.tuning, backbone)
        made = head.build(tower.width, len(classes))
    stride = None if head.window is None else max(1, round(head.window * head.stride / patch)) * patch
    owned = isinstance(config.tuning, FullTuning)
    return Segmenter(backbone, prompt, made, taps, head.window, stride, owned, head.size)


def segmentation_skeleton(
    config: RunConfig, backbone: Backbone, classes: Sequence[str]
) -> tuple[TokenPrompts | None, nn.Module]:
    """Prompt and head of a segmenter from `build_segmenter`, on the meta device.

    Raises:
        UserError: settings that do not fit the backbone.
    """
    head, tower = config.head, backbone.require_tower("patch grids")
    assert isinstance(head, MaskHead)
    with torch.device("meta"):
        return token_prompt(config, tower), head.build(tower.width, len(classes))


def refuse_many_patches(head: MaskHead, size: int, patch: int) -> None:
    """Refuse image sizes with too many patches for attention.

    Args:
        head: settings of the head.
        size: the backbone's own size of images, in pixels, where `head.size` is not given.
        patch: side of a patch, in pixels.

    Raises:
        UserError: too many patches.
    """
    side = head.size or size
    area = head.window**2 if head.window is not None else side * side * (head.longest if head.resize == "short" else 1)
    if (patches := math.floor(area / patch**2)) > 2 * MOST_PATCHES:
        remedy = (
            "lower head.window" if head.window is not None else "set head.window, or lower head.size or head.longest"
        )
        raise UserError(f"images make up to {patches} patches; {2 * MOST_PATCHES} are the most: {remedy}")
