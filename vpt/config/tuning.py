"""Settings of backbone tuning: the baselines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vpt.config.base import ALWAYS_LISTED, MANY, Section, Word, short


class FrozenTuning(Section):
    """The backbone is frozen."""

    kind: Literal["frozen"] = "frozen"


class BiasTuning(Section):
    """All biases of the backbone are trained (BitFit, Ben Zaken et al. 2022)."""

    kind: Literal["bias"] = "bias"


class LoraTuning(Section):
    """Low-rank updates of linear layers (Hu et al. 2022), by the peft library."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, le=65_536, description="rank of the two matrices added to every layer")
    alpha: int = Field(16, ge=1, le=MANY, description="their product is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on their input")
    targets: Annotated[list[Word], ALWAYS_LISTED] = Field(
        default_factory=lambda: ["qkv", "q_proj", "k_proj", "v_proj", "out_proj", "proj"],
        min_length=1,
        max_length=100,
        description="name endings of the linear layers inside the blocks",
    )


class FullTuning(Section):
    """All weights are trained."""

    kind: Literal["full"] = "full"


Tuning = Annotated[
    FrozenTuning | BiasTuning | LoraTuning | FullTuning, Field(discriminator="kind"), short("kind", "frozen")
]
