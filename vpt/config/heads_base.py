"""Base of the settings of all heads."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from vpt.config.base import ALWAYS_LISTED
from vpt.config.prompts import NoPrompt
from vpt.config.prompts_base import PromptSection, TokenPrompt
from vpt.config.registry import KindSection


class HeadSection(KindSection):
    """Base of the settings of every head."""

    task: ClassVar[str] = "classification"
    implies_task: ClassVar[bool] = False  # a run with this head need not name its task
    from_images: ClassVar[bool] = False  # computed from training images
    needs_classifier: ClassVar[bool] = False  # load the backbone with its pretrained classifier
    needs_text: ClassVar[bool] = False  # load the backbone with its text tower
    any_size: ClassVar[bool] = False  # reads images of any size
    new_names: ClassVar[bool] = False  # has scores for class names that were not trained
    in_order: ClassVar[bool] = False  # scores depend on the images before
    complete: ClassVar[bool] = False  # the whole network, which resizes images itself
    at_evaluation: ClassVar[tuple[str, ...]] = ()  # settings that may differ from those of training

    def check_run(self, config: Any) -> None:
        """Raise a ValueError if other settings of the RunConfig do not go with this head."""

    @property
    def reads(self) -> str:
        """Pooling whose output the head takes: "native" (the backbone's own), or another one of `Backbone.features`."""
        return "native"


class GridHead(HeadSection):
    """Base of the settings of heads on the patch grids of some layers."""

    any_size: ClassVar[bool] = True
    prompts: ClassVar[tuple[type[PromptSection], ...]] = (TokenPrompt, NoPrompt)
    taps: Annotated[list[Annotated[int, Field(ge=-1000, le=1000)]], ALWAYS_LISTED] = Field(
        default_factory=lambda: [-1],
        min_length=1,
        max_length=64,
        description="layers whose patch tokens are the input; -1 is the last",
    )

    def check_run(self, config: Any) -> None:
        """Refuse prompts that the head does not take."""
        if not isinstance(config.prompt, self.prompts):
            remedy = "pixel or none" if self.complete else "a token prompt or none"
            raise ValueError(f"head={self.kind} does not take prompt={config.prompt.kind}; choose {remedy}")
