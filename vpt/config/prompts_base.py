"""Bases of the settings of prompts."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vpt.config.base import LISTED, MANY, Section, short
from vpt.config.registry import KindSection
from vpt.utils.plugins import imported

# 'all', 'first:N', 'last:N' or layer indices
Layers = Annotated[
    Annotated[str, Field(max_length=40)]
    | Annotated[list[Annotated[int, Field(ge=-1000, le=1000)]], Field(max_length=1000)],
    LISTED,
]


class PromptSection(KindSection):
    """Base of the settings of every prompt."""

    objective: ClassVar[str] = ""  # builds the training objective, if it is more than a loss of the scores
    reads: ClassVar[str] = ""  # what the head reads of the last layer, instead of `head.pool`
    init_images: ClassVar[int] = 64  # largest number of training images for an initialisation

    @property
    def needs_images(self) -> bool:
        """Whether the prompt is initialised from training images."""
        return False

    @property
    def needs_classes(self) -> bool:
        """Whether the prompt uses the classes of training images."""
        return False

    @property
    def has_own_classes(self) -> bool:
        """Whether a trained prompt supports the classes of its training only, whatever the head."""
        return False


class TokenPrompt(PromptSection):
    """Base of the settings of token prompts: `build(shape)` creates the `TokenPrompts` for a backbone."""

    adds_features: ClassVar[bool] = False  # for a head that is trained: linear or mlp
    any_widths: ClassVar[bool] = False  # for backbones whose layers differ in width: `shape.stage_widths`

    def build(self, shape: Any) -> Any:
        """Create the `vpt.prompts.base.TokenPrompts` for a backbone.

        Args:
            shape: shape of the backbone, a `vpt.prompts.base.Shape`.
        """
        return super().build(shape)


class ClipPrompt(PromptSection):
    """Base of the settings of prompts in the text of a CLIP's class names.

    `make` names a class with `build` and `skeleton`; your own section may override both methods instead.
    """

    source_templates: ClassVar[int] = 0  # number of CLIP's templates for the head's fixed texts; 0: head.templates

    def build(self, backbone: Any, classes: Any) -> Any:
        """Create the `vpt.prompts.clip.learners.Learner` for a CLIP.

        Args:
            backbone: the backbone with its text tower.
            classes: class names.
        """
        return imported(f"{self.make}.build")(self, backbone, classes)

    def skeleton(self, backbone: Any, classes: Any) -> Any:
        """A `Learner` with the same parameter names and shapes as that of `build`, for the meta device."""
        return imported(f"{self.make}.skeleton")(self, backbone, classes)

    @property
    def replaces_templates(self) -> bool:
        """Whether the texts have a learned context, so that `head.templates` has no effect."""
        return True


class WithTokens(TokenPrompt):
    """Base of the settings of prompts with tokens in every prompted layer."""

    tokens: int = Field(10, ge=1, le=10_000, description="prompt tokens per prompted layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on prompt values, with a mask for each image")


class PaeSection(Section):
    """Training-only losses between the prompts of consecutive layers, and an initialisation from images and labels
    (PAE, Wang et al. 2026)."""

    form: Literal["released", "paper"] = Field(
        "released", description="of the losses: as in the released code, whose weights these are, or as in the paper"
    )
    consistency: float = Field(0.5, ge=0, le=MANY, description="loss weight of mapping one layer's prompts to the next")
    stability: float = Field(0.2, ge=0, le=MANY, description="loss weight of an increase of their energy")
    width: int = Field(256, ge=1, le=1024, description="channels in which the prompts are compared")
    from_images: bool = Field(
        True, description="initialise the tokens from frequency bands of labelled training images, instead of init"
    )


class WithLayers(TokenPrompt):
    """Base of the settings of prompts in a choice of layers."""

    layers: Layers = Field("all", description="'all', 'first:N', 'last:N' or a list, counted from 0")
    pae: Annotated[PaeSection | None, short("form")] = Field(
        None, description="PAE's losses and initialisation: released or paper; null: none"
    )

    @property
    def needs_images(self) -> bool:
        """Whether the tokens are initialised from training images."""
        return (self.pae is not None and self.pae.from_images) or super().needs_images

    @property
    def needs_classes(self) -> bool:
        """Whether the tokens are initialised from labelled images."""
        return self.pae is not None and self.pae.from_images

    @model_validator(mode="after")
    def _pae_fits(self) -> WithLayers:
        if self.pae is None:
            return self
        if getattr(self, "prune_tokens", 0) or getattr(self, "prune_segments", 0):
            raise ValueError("pae does not go with pruning; leave out one of them")
        if self.pae.from_images and (getattr(self, "project", None) or hasattr(self, "rank")):
            raise ValueError("pae.from_images needs tokens of the backbone's width; set pae.from_images=false")
        if self.pae.from_images and getattr(self, "init", "uniform") != "uniform":
            raise ValueError("pae.from_images replaces init; leave out init, or set pae.from_images=false")
        return self
