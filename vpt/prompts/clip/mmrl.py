"""MMRL and MMRL++: representation tokens that both towers see in their upper layers (Guo and Gu 2025, 2503.08497)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.backbone import Backbone
from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.text_encoder import TextEncoder
from vpt.config.prompts_clip import MmrlPlusPrompt, MmrlPrompt
from vpt.prompts.base import TokenPrompts
from vpt.prompts.clip.learners import Learner, encoder_of
from vpt.prompts.clip.text_context import TemplateTexts
from vpt.utils.errors import UserError


class Mmrl:
    """Builds MMRL and MMRL++; see learners.py."""

    @staticmethod
    def build(config: MmrlPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """Tokens, their maps to both towers, and the projection of their outputs."""
        vision = RepresentationTokens(config, backbone)
        return Learner(vision, RepresentationTexts(config, encoder_of(backbone), vision, classes))

    @staticmethod
    def skeleton(config: MmrlPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See learners.py."""
        return Learner(RepresentationTokens(config, backbone))


class Maps(nn.Module):
    """A linear map of tokens (K, d) for each layer, (L, K, C): `weight` (L, C, d), at first equal, or, with a rank,
    `weight` (C, d) for all layers and a product `down` (L, C, r) times `up` (L, r, d), at first zero, for each.

    >>> Maps(7, 512, 768, 4)(torch.ones(5, 512)).shape
    torch.Size([7, 5, 768])
    """

    def __init__(self, layers: int, width: int, out: int, rank: int | None) -> None:
        super().__init__()
        first = nn.Linear(width, out)
        self.bias = nn.Parameter(first.bias.detach().repeat(layers, 1))
        self.weight = nn.Parameter(first.weight.detach().repeat(1 if rank else layers, 1, 1))
        self.low = Product(rank, out, width, layers) if rank else None

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        weight = self.weight if self.low is None else self.weight + self.low()
        return tokens @ weight.mT + self.bias[:, None]


class Product(nn.Module):
    """A matrix (rows, columns) of a rank, or several; zero at first: `up` is, `down` is uniform up to 1 / sqrt(r)."""

    def __init__(self, rank: int, rows: int, columns: int, *several: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(rank)
        self.down = nn.Parameter(torch.empty(*several, rows, rank).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(*several, rank, columns))

    def forward(self) -> Tensor:
        """The matrices."""
        return self.down @ self.up


class RepresentationTokens(TokenPrompts):
    """`tokens` (K, d), normal with standard deviation 0.02, mapped to the widths C of both towers in each of their L
    upper layers, and the projection P of their outputs in the image tower, (C, D).

    Parameters of MMRL: K d + (d + 1) (L C + L_text C_text) + C D.
    """

    def __init__(self, config: MmrlPrompt, backbone: Backbone) -> None:
        tower = backbone.require_tower("representation tokens")
        text = encoder_of(backbone).require_tower("representation tokens")
        counts = [len(blocks) - config.layer for blocks in (tower.blocks, text.blocks)]
        if min(counts) < 1:
            raise UserError(
                f"prompt.layer={config.layer}: the image tower has {len(tower.blocks)} layers and the text tower "
                f"{len(text.blocks)}, from 0"
            )
        replaced = config.fresh == 1  # the outputs of tokens are read in the last layer only
        layers = range(counts[0] if replaced else 1)
        super().__init__({config.layer + index: index for index in layers})
        self.config = config
        self.tokens = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        plus = config if isinstance(config, MmrlPlusPrompt) else None
        rank = plus.rank if plus else None
        self.image = Maps(counts[0], config.width, tower.width, rank)
        self.text = Maps(counts[1], config.width, text.width, rank)
        self.frozen: Callable[[], Tensor] | None = None
        self.low: Product | None = None
        if plus:
            self.frozen = _projection(backbone)
            self.low = Product(plus.projection_rank, tower.width, tower.features)
        else:
            self.projection = nn.Parameter(torch.randn(tower.width, tower.features) / math.sqrt(tower.width))

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Tokens (K, C) of each layer of the image tower."""
        return self.image(self.tokens).unbind(0)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Above the first layer MMRL++ adds a fraction of the outputs of the tokens to a fraction of fresh ones."""
        fresh, given = self.config.fresh, layer - self.config.layer
        if given < 1 or layer in self.inserted:
            return plain
        return replace(plain, carry=lambda outputs: fresh * sets[given] + (1 - fresh) * outputs)

    def in_text(self) -> dict[int, Tensor]:
        """Layer of the text tower -> tokens (K, C)."""
        return dict(enumerate(self.text(self.tokens), self.config.layer))

    def projected(self, outputs: Tensor) -> Tensor:
        """Features (B, D) of the mean outputs (B, C), after the tower's last norm."""
        if self.frozen is None or self.low is None:
            return outputs @ self.projection
        return outputs @ (self.frozen() + self.low())


def _projection(backbone: Backbone) -> Callable[[], Tensor]:
    """The frozen projection of the image tower to its features."""
    net = backbone.library_net
    if not isinstance(getattr(net, "proj", None), Tensor):
        raise UserError(
            f"prompt=mmrlpp updates the projection of the image tower, and that of {backbone.name} is not one matrix; "
            "use prompt=mmrl, or a CLIP such as open_clip:ViT-B-16"
        )
    return lambda: net.proj  # not a parameter of the prompt: it belongs to the backbone


class RepresentationTexts(TemplateTexts):
    """Text features of the head's templates, by a text tower with the tokens of an image prompt behind the start
    token. Scores of images are `config.alpha` times those of the class feature, plus those of the tokens' feature;
    those of the class feature alone if there are classes that were not trained.

    Args:
        config: settings.
        encoder: a CLIP's text encoder; not a submodule of this module.
        prompt: prompt of the image tower; not a submodule either.
        names: the trained classes.
    """

    def __init__(
        self, config: MmrlPrompt, encoder: TextEncoder, prompt: RepresentationTokens, names: Sequence[str]
    ) -> None:
        super().__init__(encoder, "representation tokens")
        self.__dict__["prompt"] = prompt
        self.config, self.trained, self.fused = config, frozenset(names), True

    def set_names(self, names: Sequence[str]) -> None:
        """Use other class names."""
        self.fused = self.trained.issuperset(names)

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features of the class token and of the representation tokens, (B, D) each."""
        prompt: RepresentationTokens = self.__dict__["prompt"]
        width = prompt.image.bias.shape[1]
        own, tokens = features[:, :-width], features[:, -width:]
        return F.normalize(own, dim=-1), F.normalize(prompt.projected(tokens), dim=-1)

    def directions(self, features: Tensor) -> Tensor:
        """See Texts.directions."""
        own, other = self.both(features)
        return self.config.alpha * own + (1 - self.config.alpha) * other if self.fused else own

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """See Texts.forward."""
        prompt: RepresentationTokens = self.__dict__["prompt"]
        return self.encoded(self.tower, prompt.in_text(), self.config.fresh)
