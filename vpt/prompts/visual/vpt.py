"""VPT: learnable tokens inserted into the sequence of a frozen transformer (Jia et al. 2022, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.liveness import After
from vpt.config import DeepPrompt, ShallowPrompt
from vpt.prompts.base import Shape, TokenPrompts, TrainingImages, dropped, prompted_layers
from vpt.utils.errors import UserError


class VisualPrompts(TokenPrompts):
    """Learnable token sets, one for each prompted layer or one shared by all.

    Args:
        shape: shape of the backbone.
        inserted: layer -> index of its token set.
        tokens: number of tokens P of a set.
        dropout: dropout on prompt values, with a mask for every image.
        project: width of a bottleneck in which the tokens are learned, or None. All sets share one linear projection.
        after: see backbones/liveness.py.

    >>> shape = Shape(depth=2, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> VisualPrompts(shape, {0: 0, 1: 1}, tokens=5).sets(batch=2)[1].shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        shape: Shape,
        inserted: Mapping[int, int],
        tokens: int,
        dropout: float = 0.0,
        project: int | None = None,
        after: After = "carry",
    ) -> None:
        super().__init__(inserted, after)
        self.tokens = nn.Parameter(torch.empty(len(set(inserted.values())), tokens, project or shape.width))
        self.project = nn.Linear(project, shape.width) if project else None
        self.dropout = dropout
        uniform_(self.tokens, shape.patch)
        if self.project is not None:
            nn.init.kaiming_normal_(self.project.weight, a=0, mode="fan_out")

    @torch.no_grad()
    def initialize(self, config: Any, data: TrainingImages) -> None:
        """Initialise tokens with patch tokens of the images, or by VIPAMIN: see `prompt.init`."""
        from vpt.prompts.init.spt import initial_tokens
        from vpt.prompts.init.vipamin import vipamin

        tower, layers = data.backbone.require_tower("token prompts"), self.first_layers()
        if config.init == "vipamin":
            tokens = vipamin(tower, data.images[0], self.tokens, layers, config.nearest, config.expand)
        else:
            entering = data.entering(layers)
            if 0 in entering:
                entering[0] = torch.cat([tower.patches(images) for images in data.images])
            patches = {layer: rows.float().cpu() for layer, rows in entering.items()}
            tokens = initial_tokens(patches, self.inserted, self.tokens.shape[1], config.init, data.seed)
        self.tokens.copy_(tokens)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) with a separate dropout mask for every image."""
        tokens = self.tokens if self.project is None else self.project(self.tokens)
        return dropped(tokens, self.dropout, batch, self.training).unbind(0)


def build_shallow(config: ShallowPrompt, shape: Shape) -> TokenPrompts:
    """The prompt of `prompt=shallow`."""
    return _built(config, shape, {0: 0})


def build_deep(config: DeepPrompt, shape: Shape) -> TokenPrompts:
    """The prompt of `prompt=deep`.

    Raises:
        UserError: a bottleneck that is not narrower than the backbone, or layers that do not exist.

    >>> shape = Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> build_deep(DeepPrompt(tokens=3, shared=True), shape).tokens.shape
    torch.Size([1, 3, 8])
    """
    layers = prompted_layers(config.layers, shape.depth)
    return _built(config, shape, {layer: 0 if config.shared else index for index, layer in enumerate(layers)})


def _built(config: DeepPrompt | ShallowPrompt, shape: Shape, inserted: Mapping[int, int]) -> TokenPrompts:
    if shape.stage_widths:
        from vpt.prompts.visual.stages import build_stages

        return build_stages(config, shape, inserted)
    if config.project is not None and config.project >= shape.width:
        raise UserError(f"prompt.project={config.project} must be below the backbone's width {shape.width}")
    return VisualPrompts(shape, inserted, config.tokens, config.dropout, config.project, config.after)


def uniform_(tokens: Tensor, patch: tuple[int, int]) -> None:
    """VPT's initialisation (section 4.1 and its released settings): Xavier uniform as if tokens (..., C) were the
    weights of a patch embedding, independent of their number.

    >>> tokens = torch.empty(1, 1000, 768)
    >>> uniform_(tokens, (16, 16))
    >>> round(float(tokens.max()), 3)
    0.062
    """
    bound = math.sqrt(6.0 / (3 * math.prod(patch) + tokens.shape[-1]))
    nn.init.uniform_(tokens, -bound, bound)
