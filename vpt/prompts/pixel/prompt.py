"""Pixel prompts: learnable pixels added to the input image of any backbone.

Frames, patches and whole images (Bahng et al. 2022), the image shrunk to fit inside the frame (ILM-VP, Chen et al.
2023; EVP, Wu et al. 2022), a learnable image size (AutoVP, Tsao et al. 2024, section 3), and a whole image of low rank
(LoR-VP, Jin et al. 2025).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.config import PixelPrompt
from vpt.data.normalization import normalise
from vpt.prompts.base import PromptModule
from vpt.utils.errors import UserError

Space = Literal["raw", "normalised"]
Squash = Literal["none", "sigmoid", "clamp"]
SCALES = (0.1, 5.0)  # range of a learned size


def overlay(
    images: Tensor, canvas: Tensor, mask: Tensor, mean: Tensor, std: Tensor, space: Space, squash: Squash
) -> Tensor:
    """Add prompts to images, and normalise.

    Args:
        images: (B, 3, S, S), pixels from 0 to 1.
        canvas: the prompt (3, S, S), or (B, 3, S, S) if it differs between images.
        mask: (S, S) or (B, 1, S, S), one where the prompt is.
        mean: of the backbone, (3, 1, 1).
        std: of the backbone, (3, 1, 1).
        space: the prompt is added to pixels ("raw") or to normalised pixels.
        squash: "sigmoid": apply a sigmoid to the prompt; "clamp": clamp the prompted image to valid pixels.

    Returns:
        (B, 3, S, S), normalised.

    >>> half = torch.full((3, 1, 1), 0.5)
    >>> overlay(torch.ones(1, 3, 2, 2), torch.ones(3, 2, 2), torch.ones(2, 2), half, half, "raw", "clamp").max()
    tensor(1.)
    """
    prompt = (canvas.sigmoid() if squash == "sigmoid" else canvas) * mask
    if space == "raw":
        images = images + prompt
        if squash == "clamp":
            images = images.clamp(0, 1)
        return normalise(images, mean, std)
    images = normalise(images, mean, std) + prompt
    if squash == "clamp":
        images = torch.minimum(torch.maximum(images, -mean / std), (1 - mean) / std)
    return images


class PixelPrompts(PromptModule):
    """A pixel prompt for a backbone with square inputs of `side` pixels.

    Only prompted pixels are parameters: 4 * 3 * p * (S - p) for a frame, 3 * p * p for a patch, 3 * S * S for the whole
    image. A learned size adds one parameter, and makes all 3 * S * S pixels parameters, because the frame moves. An
    image of low rank r has 6 * S * r: a product of matrices (S, r), which start at zero, and (r, S) for each colour.

    >>> sum(p.numel() for p in PixelPrompts(PixelPrompt(size=30), side=224).parameters())
    69840
    """

    frame: Tensor

    def __init__(self, config: PixelPrompt, side: int) -> None:
        super().__init__()
        self.config = config
        self.side = side
        self.inner = side - 2 * config.size if config.shape == "pad" else side
        if config.shape == "pad" and self.inner < 1:
            raise UserError(
                f"prompt.size={config.size} leaves nothing of an image of {side} pixels; stay below {(side + 1) // 2}"
            )
        if config.shape in ("patch", "random_patch") and config.size > side:
            raise UserError(f"prompt.size={config.size} is larger than the image of {side} pixels; lower it")
        if config.shape == "lowrank" and config.rank > side:
            raise UserError(f"prompt.rank={config.rank} is larger than the image of {side} pixels; lower it")
        self.register_buffer("frame", self._frame(), persistent=False)
        if config.shape == "lowrank":
            self.left = nn.Parameter(torch.zeros(3, side, config.rank))
            self.right = nn.Parameter(0.01 * torch.randn(3, config.rank, side))
            return
        shape = (3, side * side)
        if config.learn_scale:
            self.scale = nn.Parameter(torch.ones(()))
        elif config.shape == "pad":
            shape = (3, side * side - self.inner**2)
        elif config.shape in ("patch", "random_patch"):
            shape = (3, config.size**2)
        self.pixels = nn.Parameter(torch.randn(shape) if config.init == "normal" else torch.zeros(shape))

    @property
    def image_size(self) -> int:
        """Side length of the images that the data loader should provide, in pixels."""
        return self.inner if self.config.shrink else self.side

    def forward(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Prompted and normalised images (B, 3, side, side).

        Args:
            images: (B, 3, image_size, image_size), pixels from 0 to 1.
            mean: of the backbone, (3, 1, 1).
            std: of the backbone, (3, 1, 1).
        """
        images = self.placed(images)
        canvas, mask = self.canvas(images.shape[0])
        return overlay(images, canvas, mask, mean, std, self.config.space, self.config.squash)

    def canvas(self, batch: int) -> tuple[Tensor, Tensor]:
        """The prompt on its canvas, (3, side, side), and its mask, (side, side); a patch at random places in training
        gives (batch, 3, side, side) and (batch, 1, side, side). With a learned size the prompt covers the area
        outside of the image."""
        if self.config.shape == "random_patch":
            return self._patch(batch)
        if self.config.shape == "lowrank":
            return self.left @ self.right, self.frame.to(self.left.dtype)
        if self.config.learn_scale:
            inner = min(self.side, max(0, int(self.inner * float(self.scale.detach()))))
            return self.pixels.view(3, self.side, self.side), _outside(self.side, inner).to(self.pixels)
        canvas = self.pixels.new_zeros(3, self.side, self.side)
        return canvas.masked_scatter(self.frame.expand_as(canvas), self.pixels), self.frame.to(self.pixels.dtype)

    def placed(self, images: Tensor) -> Tensor:
        """Images at their position on the canvas, (B, 3, side, side); a shrunk image has a black border."""
        if not self.config.shrink:
            return images
        before = (self.side - self.inner) // 2
        after = self.side - self.inner - before
        images = F.pad(images, (before, after, before, after))
        if not self.config.learn_scale:
            return images
        # Sampling at u / scale around the centre scales the image by `scale`.
        turn = torch.eye(2, 3, device=images.device, dtype=images.dtype) / self.scale
        grid = F.affine_grid(turn.expand(images.shape[0], -1, -1), list(images.shape), align_corners=True)
        return F.grid_sample(images, grid, align_corners=True)

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp a learned size to its range, in place. Called after every step and after loading."""
        if self.config.learn_scale:
            self.scale.clamp_(*SCALES)

    def _frame(self) -> Tensor:
        size, side = self.config.size, self.side
        if self.config.shape == "pad":
            return _outside(side, self.inner)
        frame = torch.zeros(side, side, dtype=torch.bool)
        if self.config.shape == "patch":
            frame[:size, :size] = True
        else:
            frame[:] = True
        return frame

    def _patch(self, batch: int) -> tuple[Tensor, Tensor]:
        """A patch, at a random position for each image in training and in the centre otherwise, and its mask."""
        size, free = self.config.size, self.side - self.config.size
        patch = self.pixels.view(3, size, size)
        patch = torch.cat([patch, torch.ones_like(patch[:1])])  # the mask moves with the pixels
        if not self.training:
            before = free // 2
            laid = F.pad(patch, (before, free - before, before, free - before))
            return laid[:3], laid[3]
        places = torch.randint(free + 1, (batch, 2)).tolist()
        laid = torch.stack([F.pad(patch, (x, free - x, y, free - y)) for y, x in places])
        return laid[:, :3], laid[:, 3:]


def _outside(side: int, inner: int) -> Tensor:
    """Mask (side, side) that is True outside of a centred square."""
    mask = torch.ones(side, side, dtype=torch.bool)
    before = (side - inner) // 2
    mask[before : before + inner, before : before + inner] = False
    return mask
