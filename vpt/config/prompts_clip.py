"""Settings of more prompt learners for CLIP; the others are in `prompts`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vpt.config.base import MANY, Sentence
from vpt.config.prompts_base import ClipPrompt


class TaskresPrompt(ClipPrompt):
    """A learned residual on the frozen text features of the classes (TaskRes, Yu et al. 2023)."""

    kind: Literal["taskres"] = "taskres"
    make: ClassVar[str] = "vpt.prompts.clip.taskres:Taskres"
    scale: float = Field(0.5, ge=0, le=MANY, description="factor of the residual; the released code: 1 on Flowers")

    @property
    def has_own_classes(self) -> bool:
        """Always: the residual has a row for each class."""
        return True

    @property
    def replaces_templates(self) -> bool:
        """Never: the residual is added to the features of the templates."""
        return False


class ClipLoraPrompt(ClipPrompt):
    """Low-rank updates of queries, keys and values in both towers (CLIP-LoRA, Zanella and Ben Ayed 2024)."""

    kind: Literal["clip_lora"] = "clip_lora"
    make: ClassVar[str] = "vpt.prompts.clip.low_rank:ClipLora"
    rank: int = Field(2, ge=1, le=4096, description="rank of the updates, in all layers of both towers")
    alpha: float = Field(1.0, ge=0, le=MANY, description="updates are multiplied by alpha / sqrt(rank)")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout on the input of the updates")

    @property
    def replaces_templates(self) -> bool:
        """Never: the updated text tower encodes the templates."""
        return False


class ProgradPrompt(ClipPrompt):
    """CoOp whose gradient may not oppose that of zero-shot scores (ProGrad, Zhu et al. 2023)."""

    kind: Literal["prograd"] = "prograd"
    make: ClassVar[str] = "vpt.prompts.clip.prograd:Prograd"
    objective: ClassVar[str] = "vpt.training.projected_gradient:projected"
    tokens: int = Field(16, ge=1, le=64, description="context tokens M")
    words: Sentence | None = Field(
        "a photo of a",
        description="words whose embeddings initialise the last context tokens, the others start at zero; null: random "
        "initialisation",
    )
    strength: float = Field(
        1.0, ge=0, le=MANY, description="fraction of the opposing part of the gradient that is removed"
    )


class TcpPrompt(ClipPrompt):
    """A context, and tokens of each class from its frozen text features (TCP, Yao et al. 2024)."""

    kind: Literal["tcp"] = "tcp"
    make: ClassVar[str] = "vpt.prompts.clip.tcp:Tcp"
    objective: ClassVar[str] = "vpt.training.regularizers:knowledge_guided"
    tokens: int = Field(4, ge=1, le=64, description="context tokens, and tokens of each class")
    words: Sentence | None = Field(
        None, description="words whose embeddings initialise the context; null: random initialisation"
    )
    layer: int = Field(
        8, ge=1, le=1000, description="layer of the text tower before which class tokens replace the context"
    )
    width: int = Field(128, ge=1, le=65_536, description="hidden width of the network that computes the class tokens")
    weight: float = Field(
        8.0, ge=0, le=MANY, description="loss weight of one minus the mean cosine to the fixed text features"
    )


class MmrlPrompt(ClipPrompt):
    """Tokens of one space that both towers see in their upper layers, and a second image feature from their outputs
    (MMRL, Guo and Gu 2025)."""

    kind: Literal["mmrl"] = "mmrl"
    make: ClassVar[str] = "vpt.prompts.clip.mmrl:Mmrl"
    objective: ClassVar[str] = "vpt.training.regularizers:two_features"
    reads: ClassVar[str] = "native_prompts"
    tokens: int = Field(5, ge=1, le=64, description="representation tokens in each layer")
    width: int = Field(
        512, ge=1, le=65_536, description="width of the representation tokens, before the maps to both towers"
    )
    layer: int = Field(5, ge=0, le=1000, description="first layer of both towers with representation tokens, from 0")
    alpha: float = Field(
        0.7,
        ge=0,
        le=1,
        description="weight of the scores of the class feature; the rest is that of the tokens' feature",
    )
    weight: float = Field(
        0.5, ge=0, le=MANY, description="loss weight of one minus the mean cosine to frozen features, image and text"
    )

    @property
    def replaces_templates(self) -> bool:
        """Never: the tokens join the texts of the templates."""
        return False

    @property
    def fresh(self) -> float:
        """Fraction of new tokens in a layer, the rest being outputs of the layer below."""
        return 1.0


class MmrlPlusPrompt(MmrlPrompt):
    """MMRL whose maps share a weight, and whose tokens are carried from layer to layer (MMRL++, Guo and Gu 2025)."""

    kind: Literal["mmrlpp"] = "mmrlpp"  # type: ignore[assignment]
    beta: float = Field(
        0.9, ge=0, le=1, description="fraction of fresh tokens; the rest is carried from the layer below"
    )
    rank: int = Field(4, ge=1, le=4096, description="rank of each layer's difference from the shared map")
    projection_rank: int = Field(
        64, ge=1, le=4096, description="rank of the difference of the tokens' projection from that of the class token"
    )

    @property
    def fresh(self) -> float:
        """See MmrlPrompt.fresh."""
        return self.beta
