"""Settings of prompts: a kind, and what belongs to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vpt.config.section import Section, short


class NoPrompt(Section):
    """No prompt: the head reads the backbone's own features (linear probe)."""

    kind: Literal["none"] = "none"


class TokenPrompt(Section):
    """What shallow and deep token prompts share (VPT, Jia et al. 2022, section 3)."""

    tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens per prompted layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on prompt values, a mask for each image")
    project: int | None = Field(None, ge=1, description="bottleneck width: tokens live there, one linear map out")
    init: Literal["uniform", "sample", "mean", "max", "kmeans"] = Field(
        "uniform",
        description="uniform (VPT), or patch tokens of the training images (SPT): see prompts/init.py",
    )
    after: Literal["carry", "drop", "insert"] = Field(
        "carry",
        description="layers past a prompted one: carry its prompt outputs, drop them, or insert again",
    )


class ShallowPrompt(TokenPrompt):
    """Tokens enter before the first layer and are carried on (VPT-Shallow, section 3.2)."""

    kind: Literal["shallow"] = "shallow"


class DeepPrompt(TokenPrompt):
    """Fresh tokens before every prompted layer (VPT-Deep, section 3.2)."""

    kind: Literal["deep"] = "deep"
    layers: str | list[int] = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    shared: bool = Field(False, description="one set of tokens for every prompted layer")


Prompt = Annotated[NoPrompt | ShallowPrompt | DeepPrompt, Field(discriminator="kind"), short("kind", "deep")]
