"""Learned context among the words of class names: CoOp (Zhou et al. 2022, section 3.2), CoCoOp (Zhou et al. 2022), and
the text side of IVLP and MaPLe, with rows of its own in deeper layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.text_tower import encode, leading_equal
from vpt.prompts.clip.templates import cleaned
from vpt.utils.errors import UserError

MAX_BYTES = 2 << 30  # of the embeddings of all class names
Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class Layout:
    """Texts as places: a token id, or -1 - m where context token m stands.

    Args:
        slots: (K, T).
        ends: (K,) place of the end token, or the last place where the tower reads that.
    """

    slots: Tensor
    ends: Tensor


def layout(
    encoder: TextEncoder, names: Sequence[str], count: int, words: str | None = None, position: Position = "end"
) -> Layout:
    """Where the context and the names stand.

    end: start, context, name, full stop. middle: the name stands between the halves of the context. front: before it.
    With `words` the first `count` of them are learned; the others stay words between context and name.

    Raises:
        UserError: texts that are too long for the tower, or words that are fewer than `count` or no single tokens.
    """
    tower = encoder.require_tower("learned context")
    encoded = encoder.tokenizer.encode
    start, end = encoder.tokenizer.sot_token_id, encoder.tokenizer.eot_token_id
    context = [-1 - m for m in range(count)]
    fixed: list[int] = []
    if words is not None:
        tokens = encoded(words)
        if len(tokens) < count or len(tokens) != len(words.split()):
            raise UserError(
                f"prompt.words='{words}' makes {len(tokens)} tokens of {len(words.split())} words; give at least "
                f"prompt.tokens={count} words that are one token each, or leave prompt.words out"
            )
        fixed = tokens[count:]
    rows = []
    for name in cleaned(names):
        half = count // 2
        stopped, bare, stop = encoded(f"{name}."), encoded(name), encoded(".")
        row = {
            "end": [start, *context, *fixed, *stopped, end],
            "middle": [start, *context[:half], *bare, *context[half:], *fixed, *stop, end],
            "front": [start, *bare, *context, *fixed, *stop, end],
        }[position]
        if len(row) > tower.length:
            raise UserError(
                f"the class name '{name}' with {count} context tokens needs {len(row)} places, more than the "
                f"{tower.length} of {encoder.name}; lower prompt.tokens or shorten the name"
            )
        rows.append(row)
    longest = max(map(len, rows)) if tower.causal else tower.length
    ends = [longest - 1 if tower.pools_last else len(row) - 1 for row in rows]
    return Layout(torch.tensor([row + [0] * (longest - len(row)) for row in rows]), torch.tensor(ends))


class Contexts(nn.Module):
    """A learned context for a list of class names.

    Args:
        encoder: a CLIP's text side; not a part of this module.
        names: class names.
        count: context tokens M.
        words: the context starts from their embeddings; else from normal numbers of standard deviation 0.02.
        position: where the class names stand.
        class_specific: a context for every class, (K, M, C); it always starts from random numbers.
        depth: layers with rows of their own, the first one included.
        condition: width D of image features that the context depends on; 0 for none.
        tokens: (depth, M, C) parameter of another module that holds the context of all layers (MaPLe).
    """

    def __init__(
        self,
        encoder: TextEncoder,
        names: Sequence[str],
        count: int,
        words: str | None = None,
        position: Position = "end",
        class_specific: bool = False,
        depth: int = 1,
        condition: int = 0,
        tokens: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder  # a reference; it belongs to the backbone
        self.count, self.words, self.position = count, words, position
        self.class_specific = class_specific
        self.names = tuple(names)
        tower = encoder.require_tower("learned context")
        if depth > len(tower.blocks):
            raise UserError(f"prompt.text_depth={depth}: the text tower has {len(tower.blocks)} layers")
        if depth > 1 and position != "end":
            raise UserError("rows in deeper layers need prompt.position=end")
        if tokens is not None:
            self.tokens = tokens
        elif class_specific:
            self.tokens = nn.Parameter(0.02 * torch.randn(len(names), count, tower.width))
        else:
            self.tokens = nn.Parameter(start_context(encoder, depth, count, words))
        self.meta: nn.Module | None = None
        if condition:
            self.meta = meta_net(condition, tower.width)
        self.slots: Tensor
        self.ends: Tensor
        self.base: Tensor
        self.register_buffer("slots", torch.zeros(0), persistent=False)
        self.register_buffer("ends", torch.zeros(0), persistent=False)
        self.register_buffer("base", torch.zeros(0), persistent=False)
        self.set_names(names)

    @torch.no_grad()
    def set_names(self, names: Sequence[str]) -> None:
        """Take other class names, as a unified context allows.

        Raises:
            UserError: other names for class-specific contexts, or texts that are too long.
        """
        if self.class_specific and tuple(names) != self.names:
            raise UserError(
                "class-specific contexts know their own classes only; train with prompt.class_specific=false"
            )
        encoder: TextEncoder = self.__dict__["encoder"]
        tower = encoder.require_tower("learned context")
        device = encoder.scale.device  # the backbone may be on an accelerator before what learns is
        made = layout(encoder, names, self.count, self.words, self.position)
        self.slots, self.ends = made.slots.to(device), made.ends.to(device)
        if (size := 4 * self.slots.numel() * tower.width) > MAX_BYTES:
            raise UserError(
                f"{len(names)} class names take {size >> 20} MiB as embeddings; {MAX_BYTES >> 20} are the most"
            )
        positions = tower.positions()[: self.slots.shape[1]]
        self.base = tower.embed(self.slots.clamp_min(0)) + positions
        self.shared = 0
        if tower.causal:
            # A class's own context is not shared, and no text may end within what is.
            slots = self.slots.clone()
            if self.class_specific:
                slots[self.slots < 0] = -torch.arange(int((self.slots < 0).sum()), device=device) - 1
            self.shared = min(leading_equal(slots), int(self.ends.min()))

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """Text features (1, K, D), or (B, K, D) for normalised image features (B, D); not normalised."""
        encoder: TextEncoder = self.__dict__["encoder"]
        tower = encoder.require_tower("learned context")
        own = self.slots < 0
        which = (-1 - self.slots).clamp_min(0)
        # (groups, K or 1, M, C)
        context = self.tokens[None] if self.class_specific else self.tokens[:1, None]
        if condition is not None and self.meta is not None:
            context = context + self.meta(condition)[:, None, None]
        positions = tower.positions()[: self.slots.shape[1]]
        texts = torch.arange(len(self.slots), device=self.slots.device)[:, None].expand_as(which)
        placed = context[:, texts if self.class_specific else torch.zeros_like(texts), which] + positions
        rows = torch.where(own[..., None], placed, self.base)
        deep = {} if self.class_specific else {layer: rows_ for layer, rows_ in enumerate(self.tokens) if layer > 0}
        return encode(tower, rows, self.ends, self.shared, deep)


def meta_net(condition: int, width: int) -> nn.Sequential:
    """CoCoOp's: two layers with a bottleneck of a sixteenth, from image features (B, condition) to (B, width)."""
    return nn.Sequential(nn.Linear(condition, condition // 16), nn.ReLU(), nn.Linear(condition // 16, width))


@torch.no_grad()
def start_context(encoder: TextEncoder, depth: int, count: int, words: str | None) -> Tensor:
    """The context of all layers, (depth, count, C): embeddings of words in the first layer if there are words, normal
    numbers elsewhere."""
    tower = encoder.require_tower("learned context")
    tokens = 0.02 * torch.randn(depth, count, tower.width)
    if words is not None:
        ids = torch.tensor(encoder.tokenizer.encode(words)[:count])
        if len(ids) == count:  # else `layout` says what is wrong
            tokens[0] = tower.embed(ids.to(encoder.scale.device)).cpu()
    return tokens
