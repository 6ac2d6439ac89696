"""Settings of prompts that depend on the image: tokens are chosen by it, computed from it, or aligned with it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vpt.config.base import MANY
from vpt.config.prompts_base import Layers, WithTokens


class TcpaPrompt(WithTokens):
    """VPT-Deep with tokens for the class token and others for patches, chosen by each (TCPA, Liu et al. 2025)."""

    kind: Literal["tcpa"] = "tcpa"
    make: ClassVar[str] = "vpt.prompts.visual.tcpa:CoordinatedPrompts"
    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    tokens: int = Field(18, ge=1, le=10_000, description="prompt tokens per prompted layer for patches")
    class_tokens: int = Field(18, ge=1, le=10_000, description="prompt tokens per prompted layer for the class token")
    chosen: int = Field(10, ge=1, le=10_000, description="how many of these each token attends to; at most all")
    weight: float = Field(0.01, ge=0, le=MANY, description="loss weight of the distance between tokens and chosen keys")
    random_epochs: int = Field(10, ge=0, le=1_000_000, description="first epochs, in which the choice is random")
    fourier: bool = Field(False, description="Fourier transform of the prompt tokens of a layer, as in VFPT")
