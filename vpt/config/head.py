"""Settings of heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vpt.config.section import Section, short


class LinearHead(Section):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    dropout: float = Field(0.0, ge=0, lt=1)
    pool: Literal["native", "cls", "avg", "prompts", "all"] = Field(
        "native",
        description="what the head reads: the backbone's own pooling, CLS, mean of patches, of prompts, of both",
    )


class MlpHead(LinearHead):
    """Hidden layers with GELU, then a linear layer."""

    kind: Literal["mlp"] = "mlp"  # type: ignore[assignment]
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [512], min_length=1)


Head = Annotated[LinearHead | MlpHead, Field(discriminator="kind"), short("kind", "linear")]
