"""SHIP: prompts of levels of layers, with an attention of their own (Zhu et al. 2025)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.block import Beside, Block, KeyValue, join
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.backbones.vit_spec import Tower
from vpt.config import ShipPrompt
from vpt.prompts.base import Shape, TokenPrompts, TrainingImages, dropped
from vpt.prompts.init.spt import prototypes
from vpt.utils.errors import UserError

TOP = 10  # tokens with the largest class attention that the loss reads


class HierarchicalPrompts(TokenPrompts):
    """Image tokens attend to each other, and by a second softmax to prompts; both are added. Prompts do not attend, but
    pass through the rest of a layer.

    Layers form levels, by the similarity of their class tokens. Each level has its own tokens, carried through it. The
    first layer of the last two levels, unless it is that of the backbone, adds tokens that are mixed with centres of
    training images, by the similarity to the image tokens with the largest class attention in the layer below. Other
    tokens are fresh in every layer and the same in all.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: C(MP + S + 2A) for M levels; those of levels that do not exist are not stored.

    Raises:
        UserError: a backbone without a class token.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> prompt = HierarchicalPrompts(ShipPrompt(tokens=5), shape)
    >>> sum(value.numel() for name, value in prompt.packed(prompt.state_dict()).items() if name in prompt.learned)
    26880
    """

    learned = ("tokens", "shared", "attributes")
    starts: Tensor  # (L,) 1 where a level starts
    centres: Tensor  # (K, C)

    of_step = ("_match",)

    def __init__(self, config: ShipPrompt, shape: Shape) -> None:
        super().__init__({})
        if not shape.prefix:
            raise UserError("prompt=ship needs a class token, which the backbone lacks; choose prompt=deep")
        self.config, self.prefix, self.depth = config, shape.prefix, shape.depth
        self.tokens = nn.Parameter(torch.empty(shape.depth, config.tokens, shape.width))
        self.shared = nn.Parameter(torch.empty(config.shared_tokens, shape.width))
        self.attributes = nn.Parameter(torch.empty(2, config.attribute_tokens, shape.width))
        for tokens in self.tokens.split(1):
            nn.init.xavier_uniform_(tokens)
        nn.init.kaiming_uniform_(self.shared)
        nn.init.kaiming_uniform_(self.attributes)
        self.register_buffer("starts", torch.cat([torch.ones(1), torch.zeros(shape.depth - 1)]))
        self.register_buffer("centres", torch.zeros(config.centres, shape.width))
        self._match: Tensor | None = None

    @torch.no_grad()
    def initialize(self, config: ShipPrompt, data: TrainingImages) -> None:
        """Divide the layers into levels, and compute the centres."""
        tower, found = data.backbone.require_tower("token prompts"), []
        for images in data.images:
            rows, rotary = tower.embed(images)
            tokens = []
            for layer, block in enumerate(tower.blocks):
                rows = block.forward(rows, None, None, tower.rope(rotary, layer), tower.prefix)
                tokens.append(rows[:, 0].float())
            found.append(torch.stack(tokens))
        classes = torch.cat(found, dim=1)  # (L, images, C)
        self.starts.zero_()[level_starts(classes, config.threshold)] = 1
        self.centres.copy_(prototypes(classes[-1, :, None].cpu(), config.centres, "kmeans", data.seed))

    def packed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State with the tokens of levels that exist."""
        return {**state, "tokens": state["tokens"][state["starts"] > 0]}

    def unpacked(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State with tokens (L, P, C), zero where no level starts."""
        tokens, starts = state.get("tokens"), state.get("starts")
        if tokens is None or starts is None or starts.shape != self.starts.shape or tokens.ndim != 3:
            return state
        if len(tokens) == len(starts) or len(tokens) != int((starts > 0).sum()):
            return state
        whole = tokens.new_zeros(len(starts), *tokens.shape[1:])
        whole[starts > 0] = tokens
        return {**state, "tokens": whole}

    def sets(self, batch: int) -> Sequence[Tensor]:
        """No tokens in the sequence."""
        return ()

    def layers(self, tower: Tower, plan: Sequence[Step], batch: int) -> list[LayerPrompt]:
        """The second attention of every layer. Tokens that do not depend on the image pass through the layers here."""
        starts = [layer for layer, starting in enumerate(self.starts.tolist()) if starting]
        mixed = {layer: index for index, layer in enumerate(each for each in starts[-2:] if each)}
        everything = torch.cat([self.tokens[starts].flatten(0, 1), self.shared])
        everything = dropped(everything[None], self.config.dropout, batch, self.training)[0]
        everything = everything if everything.ndim == 3 else everything[None]
        own = everything[:, : -len(self.shared)].unflatten(1, (len(starts), -1))
        state, found, carried = threading.local(), list[LayerPrompt](), own[:, 0]
        for layer, block in enumerate(tower.blocks):
            if layer in starts:
                carried = own[:, starts.index(layer)].to(block.dtype)
            else:
                carried = tower.blocks[layer - 1].unattended(carried)
            fixed = torch.cat([carried, everything[:, -len(self.shared) :].to(block.dtype)], dim=1)
            beside = partial(self._beside, tower, layer, mixed, state, fixed, block.keys_values(fixed))
            found.append(LayerPrompt(beside=beside))
        return found

    def _beside(
        self,
        tower: Tower,
        layer: int,
        mixed: Mapping[int, int],
        state: Any,
        fixed: Tensor,
        keys: KeyValue,
        rows: Tensor,
        rope: Tensor | None,
    ) -> Beside:
        """Keys and values of a layer. `state` has what the layer below leaves: the indices of the image tokens with the
        largest class attention, `top`, and the tokens of attributes, `carried`."""
        block, carried = tower.blocks[layer], getattr(state, "carried", None)
        if layer in mixed:
            carried = self._attributes(mixed[layer], taken(rows, state.top)).to(rows.dtype)
        elif not layer:  # nothing of an earlier pass
            carried = None
        elif carried is not None:
            carried = tower.blocks[layer - 1].unattended(carried)
        if carried is not None:
            keys = join(keys, block.keys_values(carried))
            fixed = torch.cat([fixed.expand(rows.shape[0], -1, -1), carried.to(fixed.dtype)], dim=1)
        state.carried = carried
        beside = Beside(*keys, self.config.scale)
        if layer + 1 in mixed:
            state.top = self._attended(block, rows, rope, self.config.attribute_tokens)
        if self.training and layer == self.depth - 1:
            self._match = self._matched(block, rows, rope, fixed.expand(rows.shape[0], -1, -1).to(rows.dtype), beside)
        return beside

    def _attended(self, block: Block, rows: Tensor, rope: Tensor | None, count: int) -> Tensor:
        """Indices (B, count) of the tokens (B, N, C) with the largest class attention, averaged over heads."""
        query, key, _ = block.queries_keys_values(rows.detach(), rope, self.prefix)
        scores = (query[:, :, :1] @ key.transpose(-2, -1)).float().mean(1)[:, 0]
        return scores.topk(min(count, rows.shape[1]), dim=-1).indices

    def _attributes(self, index: int, tokens: Tensor) -> Tensor:
        """Tokens (B, A, C) of a level, mixed with centres that are similar to tokens of the image."""
        tokens = tokens.to(self.centres.dtype)
        share = (F.normalize(tokens, dim=-1) @ F.normalize(self.centres, dim=-1).T).softmax(-1)
        return 0.1 * (share @ self.centres) + 0.9 * self.attributes[index, : tokens.shape[1]]

    def _matched(self, block: Block, rows: Tensor, rope: Tensor | None, prompts: Tensor, beside: Beside) -> Tensor:
        """The mean distance between the outputs of prompts, which attend to everything in the last layer, and the most
        similar of the outputs with the largest class attention."""
        count = prompts.shape[1]
        both = torch.cat([prompts, rows], dim=1)
        mine = block.forward(both, None, slice(0, count), rope, count + self.prefix)
        images = block.forward(rows, None, None, rope, self.prefix, beside=beside)
        images = taken(images, self._attended(block, rows, rope, TOP))
        cosines = F.normalize(mine.float(), dim=-1) @ F.normalize(images.float(), dim=-1).transpose(1, 2)
        return (1 - cosines).amin(2).mean()

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """The distance between prompts and image tokens after the last layer."""
        match, self._match = self._match, None  # a tensor of this step only
        return {"match": self.config.weight * (self.shared.new_zeros(()) if match is None else match)}


def level_starts(classes: Tensor, threshold: float) -> list[int]:
    """The first layers of levels, for class tokens (L, images, C).

    >>> level_starts(torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]]), 0.9)
    [0, 2]
    """
    normed, starts = F.normalize(classes, dim=-1), [0]
    for layer in range(1, len(classes)):
        if (normed[starts[-1]] * normed[layer]).sum(-1).mean() < threshold:
            starts.append(layer)
    return starts


def taken(rows: Tensor, indices: Tensor) -> Tensor:
    """The tokens (B, k, C) of rows (B, N, C) at indices (B, k).

    >>> taken(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2, 0]])).tolist()
    [[[4.0, 5.0], [0.0, 1.0]]]
    """
    return rows.gather(1, indices[..., None].expand(-1, -1, rows.shape[2]))
