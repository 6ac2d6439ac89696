"""VPT in hierarchical transformers, whose layers differ in width (Jia et al. 2022, and the released code)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from vpt.backbones.liveness import After
from vpt.config import DeepPrompt, ShallowPrompt
from vpt.prompts.base import Shape, TokenPrompts, dropped
from vpt.utils.errors import UserError

ONE_WIDTH = {"project": None, "init": "uniform", "shared": False, "pae": None}  # settings for layers of one width


class StagePrompts(TokenPrompts):
    """Learnable token sets of the widths of their layers, with a parameter for each stage.

    Args:
        shape: shape of the backbone, with the width of each layer.
        inserted: layer -> index of its token set.
        tokens: number of tokens P of a set.
        dropout: dropout on prompt values, with a mask for every image.
        after: see backbones/liveness.py.

    >>> shape = Shape(depth=3, width=16, heads=2, patch=(4, 4), grid=(4, 4), prefix=0, stage_widths=(8, 8, 16))
    >>> [tuple(stage.shape) for stage in StagePrompts(shape, {0: 0, 1: 1, 2: 2}, tokens=5).stages]
    [(2, 5, 8), (1, 5, 16)]
    """

    any_size = False

    def __init__(
        self, shape: Shape, inserted: Mapping[int, int], tokens: int, dropout: float = 0.0, after: After = "carry"
    ) -> None:
        super().__init__(inserted, after)
        self.dropout = dropout
        widths = groupby(shape.stage_widths[layer] for layer in self.first_layers())
        self.stages = nn.ParameterList(torch.empty(len(list(sets)), tokens, width) for width, sets in widths)
        # As the released code: the bound of the first stage for all of them.
        bound = math.sqrt(6.0 / (3 * math.prod(shape.patch) + shape.stage_widths[0]))
        for stage in self.stages:
            nn.init.uniform_(stage, -bound, bound)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) with a separate dropout mask for every image."""
        return [one for stage in self.stages for one in dropped(stage, self.dropout, batch, self.training).unbind(0)]


def build_stages(config: ShallowPrompt | DeepPrompt, shape: Shape, inserted: Mapping[int, int]) -> StagePrompts:
    """The prompt of `prompt=shallow` or `prompt=deep` in a backbone whose layers differ in width.

    Raises:
        UserError: a setting that needs layers of one width.

    >>> shape = Shape(depth=2, width=16, heads=2, patch=(4, 4), grid=(4, 4), prefix=0, stage_widths=(8, 16))
    >>> build_stages(ShallowPrompt(project=4), shape, {0: 0})
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: prompt.project needs layers of one width, and those of this backbone differ...
    """
    wrong = [key for key, default in ONE_WIDTH.items() if getattr(config, key, default) != default]
    if config.after == "insert" and len(inserted) < shape.depth:
        wrong.append("after=insert")
    if wrong:
        raise UserError(
            f"prompt.{wrong[0]} needs layers of one width, and those of this backbone differ; leave it out, or "
            "choose a ViT"
        )
    return StagePrompts(shape, inserted, config.tokens, config.dropout, config.after)
