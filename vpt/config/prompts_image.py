"""Settings of prompts that depend on the image: tokens are chosen by it, computed from it, or aligned with it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vpt.config.base import MANY
from vpt.config.prompts_base import Layers, TokenPrompt, WithTokens


class TcpaPrompt(WithTokens):
    """VPT-Deep with tokens for the class token and others for patches, chosen by each (TCPA, Liu et al. 2025)."""

    kind: Literal["tcpa"] = "tcpa"
    make: ClassVar[str] = "vpt.prompts.visual.tcpa:CoordinatedPrompts"
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    tokens: int = Field(18, ge=1, le=10_000, description="prompt tokens per prompted layer for patches")
    class_tokens: int = Field(18, ge=1, le=10_000, description="prompt tokens per prompted layer for the class token")
    chosen: int = Field(10, ge=1, le=10_000, description="tokens of its pool that each token attends to; at most all")
    weight: float = Field(0.01, ge=0, le=MANY, description="loss weight of the distance between tokens and chosen keys")
    random_epochs: int = Field(10, ge=0, le=1_000_000, description="first epochs, in which the choice is random")
    fourier: bool = Field(False, description="Fourier transform of the prompt tokens of a layer, as in VFPT")


class ViaptPrompt(WithTokens):
    """Prompts drawn from a Gaussian computed from the image, carried in part (ViaPT, Xiao et al. 2025)."""

    kind: Literal["viapt"] = "viapt"
    make: ClassVar[str] = "vpt.prompts.visual.viapt:InstancePrompts"
    tokens: int = Field(4, ge=1, le=10_000, description="prompt tokens that are the same for all images")
    instance_tokens: int = Field(4, ge=1, le=10_000, description="prompt tokens computed from the image")
    width: int = Field(256, ge=1, le=65_536, description="channels of the encoder of the image")
    kept: float = Field(0.5, ge=0, le=1, description="fraction of the channels carried on, by principal components")

    @property
    def needs_images(self) -> bool:
        """Principal components are those of training images."""
        return 0 < self.kept < 1


class ShipPrompt(WithTokens):
    """Prompts of levels of similar layers, shared ones, and ones from attributes (SHIP, Zhu et al. 2025)."""

    kind: Literal["ship"] = "ship"
    make: ClassVar[str] = "vpt.prompts.visual.ship:HierarchicalPrompts"
    init_images: ClassVar[int] = 512
    tokens: int = Field(50, ge=1, le=10_000, description="prompt tokens of each level of layers")
    shared_tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens that are the same in all layers")
    attribute_tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens mixed with attributes of the image")
    threshold: float = Field(
        0.95,
        ge=-1,
        le=1,
        description="a level ends where the mean cosine of class tokens to those of its start is less",
    )
    centres: int = Field(200, ge=1, le=10_000, description="attributes: k-means centres of class tokens of the images")
    scale: float = Field(0.1, ge=0, le=1, description="fraction of the attention that goes to prompts")
    weight: float = Field(0.5, ge=0, le=MANY, description="loss weight of the distance between prompts and tokens")

    @property
    def needs_images(self) -> bool:
        """Levels and attributes are those of training images."""
        return True


class Sa2vpPrompt(TokenPrompt):
    """A map of prompt tokens, aligned with those of the image, in a branch of its own (SA2VP, Pei et al. 2024)."""

    kind: Literal["sa2vp"] = "sa2vp"
    make: ClassVar[str] = "vpt.prompts.visual.sa2vp:AlignedPrompts"
    objective: ClassVar[str] = "vpt.training.two_branches:both_branches"
    rank: int = Field(8, ge=1, le=65_536, description="channels of the prompt maps and of the bottlenecks")
    scale: float = Field(0.1, ge=0, le=MANY, description="factor of what one branch adds to the other")
    every: int = Field(
        4, ge=2, le=1000, description="in every so many layers the prompt reads the image; in others, the reverse"
    )
    weight: float = Field(0.2, ge=0, lt=1, description="fraction of the loss that is the prompt branch's")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the first prompt map and where branches are added")
