"""Base of the settings of all heads."""

from __future__ import annotations

from typing import Any, ClassVar

from vpt.config.registry import KindSection


class HeadSection(KindSection):
    """Base of the settings of every head."""

    task: ClassVar[str] = "classification"
    needs_classifier: ClassVar[bool] = False  # load the backbone with its pretrained classifier
    needs_text: ClassVar[bool] = False  # load the backbone with its text tower
    any_size: ClassVar[bool] = False  # reads images of any size
    complete: ClassVar[bool] = False  # the whole network, which resizes images itself
    at_evaluation: ClassVar[tuple[str, ...]] = ()  # settings that may differ from those of training

    def check_run(self, config: Any) -> None:
        """Raise a ValueError if other settings of the RunConfig do not go with this head."""

    @property
    def reads(self) -> str:
        """Pooling whose output the head takes: "native" (the backbone's own), or another one of `Backbone.features`."""
        return "native"
