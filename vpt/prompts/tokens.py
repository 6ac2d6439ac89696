"""Token prompts: learnable rows inserted into a frozen transformer's sequence (VPT, Jia et al. 2022, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vpt.config import DeepPrompt, ShallowPrompt
from vpt.errors import UserError


def prompted_layers(config: ShallowPrompt | DeepPrompt, depth: int) -> tuple[int, ...]:
    """The layers, counted from 0, before which fresh tokens enter.

    Raises:
        UserError: layers that do not exist or a spelling that is not known.

    >>> prompted_layers(DeepPrompt(layers="last:2"), depth=12)
    (10, 11)
    """
    if isinstance(config, ShallowPrompt):
        return (0,)
    if isinstance(config.layers, str):
        word, _, count = config.layers.partition(":")
        if config.layers == "all":
            return tuple(range(depth))
        if word in ("first", "last") and count.isdigit() and 1 <= int(count) <= depth:
            return tuple(range(int(count)) if word == "first" else range(depth - int(count), depth))
        raise UserError(
            f"prompt.layers={config.layers}: write all, first:N, last:N (N from 1 to {depth}) or a list of layers"
        )
    layers = tuple(sorted(set(config.layers)))
    if not layers or layers[0] < 0 or layers[-1] >= depth or len(layers) != len(config.layers):
        raise UserError(f"prompt.layers={config.layers}: list distinct layers from 0 to {depth - 1}")
    return layers


class TokenPrompts(nn.Module):
    """Learnable token sets, one for each prompted layer or one shared by all.

    Args:
        inserted: layer -> index of its token set.
        width: channels C of the backbone's rows.
        patch: patch size in pixels, for the uniform initialisation.
        project: width of the bottleneck in which the tokens live, or None. One linear map, shared by all sets,
            leads out of it.

    >>> TokenPrompts({0: 0, 1: 1}, tokens=5, width=8, patch=(4, 4)).sets(batch=2)[1].shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        inserted: Mapping[int, int],
        tokens: int,
        width: int,
        patch: tuple[int, int],
        dropout: float = 0.0,
        project: int | None = None,
    ) -> None:
        super().__init__()
        self.inserted = dict(inserted)
        self.tokens = nn.Parameter(torch.empty(len(set(inserted.values())), tokens, project or width))
        self.project = nn.Linear(project, width) if project else None
        self.dropout = dropout
        # Section 4.1 and its released settings: Xavier uniform as if the tokens were a patch embedding's rows.
        bound = math.sqrt(6.0 / (3 * math.prod(patch) + (project or width)))
        nn.init.uniform_(self.tokens, -bound, bound)
        if self.project is not None:
            nn.init.kaiming_normal_(self.project.weight, a=0, mode="fan_out")
            nn.init.zeros_(self.project.bias)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) while dropout draws a mask for every image."""
        tokens = self.tokens if self.project is None else self.project(self.tokens)
        if self.training and self.dropout > 0:
            return [nn.functional.dropout(each.expand(batch, -1, -1), self.dropout) for each in tokens]
        return tokens.unbind(0)


def build_tokens(config: ShallowPrompt | DeepPrompt, depth: int, width: int, patch: tuple[int, int]) -> TokenPrompts:
    """Build the token prompts that a configuration asks for, for a backbone of `depth` layers of `width` channels.

    >>> build_tokens(DeepPrompt(tokens=3, shared=True), depth=4, width=8, patch=(4, 4)).tokens.shape
    torch.Size([1, 3, 8])
    """
    layers = prompted_layers(config, depth)
    shared = isinstance(config, DeepPrompt) and config.shared
    inserted = {layer: 0 if shared else index for index, layer in enumerate(layers)}
    if config.project is not None and config.project >= width:
        raise UserError(f"prompt.project={config.project} must be below the backbone's width {width}")
    return TokenPrompts(inserted, config.tokens, width, patch, config.dropout, config.project)
