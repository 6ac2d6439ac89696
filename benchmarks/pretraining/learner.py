"""What is trained: a plain timm VisionTransformer and three throw-away heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.pretraining.generator import FACTS, Batch

# Keyword arguments of timm's VisionTransformer; a 64-pixel image gives an 8x8 grid of patches and one class token.
NANO: dict[str, Any] = {"img_size": 64, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def sine_positions(grid: int, width: int) -> Tensor:
    """Sine and cosine position embedding of a square grid, (grid * grid, width): a start that knows neighbours.

    >>> sine_positions(8, 192).shape
    torch.Size([64, 192])
    """
    rates = torch.exp(-torch.arange(width // 4) / (width // 4) * 4.6)  # periods from 2 pi to about 600 patches
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(axis.reshape(-1, 1) * rates) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.cat(waves, 1)


def tokens(backbone: VisionTransformer, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
    """Normalised class and patch tokens (B, 1 + kept, C) of normalised `pixels` (B, 3, H, W).

    `keep` holds the indices of the patches to compute, the same in the whole batch; the rest cost nothing.
    """
    patches = backbone.patch_embed(pixels) + backbone.pos_embed[:, 1:]
    if keep is not None:
        patches = patches[:, keep]
    first = (backbone.cls_token + backbone.pos_embed[:, :1]).expand(len(patches), -1, -1)
    return backbone.norm(backbone.blocks(torch.cat([first, patches], 1)))


class Learner(nn.Module):
    """Backbone with a class head and a facts head on the class token and a coverage head on the patches.

    The class says which formula drew the figure; the facts (colours, place, size) keep what a class label alone
    would teach the network to ignore; coverage teaches the patches to tell figure from ground.

    >>> small = dict(NANO, embed_dim=24, depth=1)
    >>> Learner(small, classes=10).backbone.num_features
    24
    """

    def __init__(self, architecture: dict[str, Any], classes: int) -> None:
        super().__init__()
        self.backbone = VisionTransformer(**architecture, num_classes=0)
        width = self.backbone.embed_dim
        with torch.no_grad():
            grid = self.backbone.patch_embed.grid_size[0]
            self.backbone.pos_embed[0, 1:] = 0.3 * sine_positions(grid, width)
        self.classes = nn.Linear(width, classes)
        self.facts = nn.Linear(width, FACTS)
        self.coverage = nn.Linear(width, 1)

    def forward(self, batch: Batch, keep: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and its parts (scalars), with the accuracy."""
        pixels = normalise(batch.images)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            out = tokens(self.backbone, pixels, keep)
        out = out.float()
        logits = self.classes(out[:, 0])
        covered = batch.coverage.flatten(1)
        covered = covered if keep is None else covered[:, keep]
        parts = {
            "classes": F.cross_entropy(logits, batch.classes, label_smoothing=0.1),
            "facts": F.smooth_l1_loss(self.facts(out[:, 0]), batch.facts),
            "coverage": F.binary_cross_entropy_with_logits(self.coverage(out[:, 1:])[..., 0], covered),
        }
        loss = parts["classes"] + parts["facts"] + parts["coverage"]
        parts["correct"] = (logits.argmax(1) == batch.classes).float().mean()
        return loss, {name: value.detach() for name, value in parts.items()}


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) as the backbone wants them: float32, mean and standard deviation 0.5 each.

    >>> normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max()
    tensor(1.)
    """
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std
