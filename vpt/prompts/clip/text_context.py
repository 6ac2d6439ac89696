"""Learned context in the text of class names: CoOp (Zhou et al. 2022, section 3.2), CoCoOp (Zhou et al. 2022), and the
text side of IVLP and MaPLe, with separate tokens in deeper layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.text_tower import TextTower, encode, leading_equal
from vpt.prompts.clip.templates import cleaned
from vpt.utils.errors import UserError

MAX_BYTES = 2 << 30  # maximum size of the embeddings of all class names
Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class Layout:
    """Token positions of texts: a token id, or -1 - m at context token m.

    Args:
        slots: (K, T).
        ends: (K,) position of the end token, or the last position if the tower uses that one.
    """

    slots: Tensor
    ends: Tensor


def layout(
    encoder: TextEncoder, names: Sequence[str], count: int, words: str | None = None, position: Position = "end"
) -> Layout:
    """Positions of the context and the names.

    end: start, context, name, full stop. middle: the name is between the halves of the context. front: before it.
    With `words` the first `count` of them are learned; the others remain words between context and name.

    Raises:
        UserError: texts that are too long for the tower, or words that are fewer than `count` or not single tokens.
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
                f"prompt.words='{words}' are {len(tokens)} tokens for {len(words.split())} words; give at least "
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
                f"the class name '{name}' with {count} context tokens needs {len(row)} positions, more than the "
                f"{tower.length} of {encoder.name}; lower prompt.tokens or shorten the name"
            )
        rows.append(row)
    longest = max(map(len, rows)) if tower.causal else tower.length
    ends = [longest - 1 if tower.pools_last else len(row) - 1 for row in rows]
    return Layout(torch.tensor([row + [0] * (longest - len(row)) for row in rows]), torch.tensor(ends))


class Texts(nn.Module):
    """Base of learned text features of class names."""

    def __init__(self) -> None:
        super().__init__()
        self.meta: nn.Module | None = None  # makes them depend on image features

    def set_names(self, names: Sequence[str]) -> None:
        """Use other class names.

        Raises:
            UserError: features that are specific to their classes, or texts that are too long.
        """

    def read_templates(
        self, names: Sequence[str], templates: Sequence[str], fixed: Tensor, raw: Callable[[], Tensor]
    ) -> None:
        """Called after `set_names` with the templates of the head.

        Args:
            names: class names.
            templates: texts with `{}`.
            fixed: their normalised features for all class names, (K, D).
            raw: computes means of features that are not normalised, before and after the mean.
        """

    def directions(self, features: Tensor) -> Tensor:
        """Vectors (B, D) whose products with the normalised text features are cosine similarities to images, for what
        the head reads of them."""
        return F.normalize(features, dim=-1)

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """Text features (1, K, D), or (B, K, D) for normalised image features (B, D); not normalised."""
        raise NotImplementedError


class TemplateTexts(Texts):
    """Base of the text features of the head's templates, encoded by a text tower that a prompt changes.

    Args:
        encoder: a CLIP's text encoder; not a submodule of this module.
        purpose: of the prompt, for messages.
    """

    slots: Tensor
    ends: Tensor

    def __init__(self, encoder: TextEncoder, purpose: str) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder  # not a submodule: it belongs to the backbone
        self.purpose, self.templates, self.shared = purpose, 1, 0
        self.register_buffer("slots", torch.zeros(0), persistent=False)
        self.register_buffer("ends", torch.zeros(0), persistent=False)

    @property
    def tower(self) -> TextTower:
        """The text tower, unchanged."""
        encoder: TextEncoder = self.__dict__["encoder"]
        return encoder.require_tower(self.purpose)

    def read_templates(
        self, names: Sequence[str], templates: Sequence[str], fixed: Tensor, raw: Callable[[], Tensor]
    ) -> None:
        """Tokenise the class names in all templates."""
        encoder: TextEncoder = self.__dict__["encoder"]
        tower = self.tower
        ids = encoder.token_ids([each.replace("{}", name) for name in cleaned(names) for each in templates])
        self.templates = len(templates)
        ends = (ids == encoder.tokenizer.eot_token_id).int().argmax(1)
        ends = torch.full_like(ends, ids.shape[1] - 1) if tower.pools_last else ends
        if tower.causal:
            ids = ids[:, : int(ends.max()) + 1]
        self.shared = min(leading_equal(ids), int(ends.min())) if tower.causal else 0
        self.slots, self.ends = ids.to(encoder.scale.device), ends.to(encoder.scale.device)

    def encoded(self, tower: TextTower, joined: Mapping[int, Tensor] | None = None, fraction: float = 1.0) -> Tensor:
        """Means over the templates of normalised features by a changed tower, (1, K, D); see text_tower.encode."""
        rows = tower.embed(self.slots) + tower.positions()[: self.slots.shape[1]]
        found = encode(tower, rows[None], self.ends, self.shared, joined=joined, fraction=fraction)
        return F.normalize(found, dim=-1).unflatten(1, (-1, self.templates)).mean(2)


class Contexts(Texts):
    """A learned context for a list of class names.

    Args:
        encoder: a CLIP's text encoder; not a submodule of this module.
        names: class names.
        count: number of context tokens M.
        words: words whose embeddings initialise the context; else normal with standard deviation 0.02.
        position: position of the class names.
        class_specific: a context for every class, (K, M, C); always initialised randomly.
        depth: number of layers with separate tokens, including the first one.
        condition: width D of image features that the context depends on; 0 for none.
        tokens: (depth, M, C) parameter of another module with the context of all layers (MaPLe).
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
        self.__dict__["encoder"] = encoder  # not a submodule: it belongs to the backbone
        self.count, self.words, self.position = count, words, position
        self.class_specific = class_specific
        self.names = tuple(names)
        tower = encoder.require_tower("learned context")
        if depth > len(tower.blocks):
            raise UserError(f"prompt.text_depth={depth}: the text tower has {len(tower.blocks)} layers")
        if depth > 1 and position != "end":
            raise UserError("tokens in deeper layers need prompt.position=end")
        if tokens is not None:
            self.tokens = tokens
        elif class_specific:
            self.tokens = nn.Parameter(0.02 * torch.randn(len(names), count, tower.width))
        else:
            self.tokens = nn.Parameter(start_context(encoder, depth, count, words))
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
        """Use other class names, which a context shared by all classes allows.

        Raises:
            UserError: other names for class-specific contexts, or texts that are too long.
        """
        if self.class_specific and tuple(names) != self.names:
            raise UserError(
                "class-specific contexts support their own classes only; train with prompt.class_specific=false"
            )
        encoder: TextEncoder = self.__dict__["encoder"]
        tower = encoder.require_tower("learned context")
        device = encoder.scale.device  # the backbone may be on an accelerator before the trainable parameters are
        made = layout(encoder, names, self.count, self.words, self.position)
        self.slots, self.ends = made.slots.to(device), made.ends.to(device)
        if (size := 4 * self.slots.numel() * tower.width) > MAX_BYTES:
            raise UserError(
                f"{len(names)} class names need {size >> 20} MiB of embeddings; the maximum is {MAX_BYTES >> 20}"
            )
        positions = tower.positions()[: self.slots.shape[1]]
        self.base = tower.embed(self.slots.clamp_min(0)) + positions
        self.shared = 0
        if tower.causal:
            # The context of a single class cannot be shared, and no text may end inside a shared prefix.
            slots = self.slots.clone()
            if self.class_specific:
                slots[self.slots < 0] = -torch.arange(int((self.slots < 0).sum()), device=device) - 1
            self.shared = min(leading_equal(slots), int(self.ends.min()))

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """Text features (1, K, D), or (B, K, D) for normalised image features (B, D); not normalised."""
        encoder: TextEncoder = self.__dict__["encoder"]
        tower = encoder.require_tower("learned context")
        rows = self.rows(condition)
        deep = {} if self.class_specific else {layer: rows_ for layer, rows_ in enumerate(self.tokens) if layer > 0}
        return encode(tower, rows, self.ends, self.shared, deep)

    def rows(self, condition: Tensor | None = None) -> Tensor:
        """Embedded texts with their context and positions, (1 or B, K, T, C)."""
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
        return torch.where(own[..., None], placed, self.base)


def meta_net(condition: int, width: int) -> nn.Sequential:
    """CoCoOp's meta-net from image features (B, condition) to (B, width), with a bottleneck of a sixteenth."""
    return nn.Sequential(nn.Linear(condition, condition // 16), nn.ReLU(), nn.Linear(condition // 16, width))


@torch.no_grad()
def start_context(encoder: TextEncoder, depth: int, count: int, words: str | None) -> Tensor:
    """Initial context of all layers, (depth, count, C): word embeddings in the first layer if words are given, normal
    values elsewhere."""
    tower = encoder.require_tower("learned context")
    tokens = 0.02 * torch.randn(depth, count, tower.width)
    if words is not None:
        ids = torch.tensor(encoder.tokenizer.encode(words)[:count])
        if len(ids) == count:  # else `layout` reports the error
            tokens[0] = tower.embed(ids.to(encoder.scale.device)).cpu()
    return tokens
