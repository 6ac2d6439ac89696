"""What the settings of every head have."""

from __future__ import annotations

from typing import ClassVar, Literal

from vpt.config.registry import KindSection


class HeadSection(KindSection):
    """Base of the settings of every head."""

    task: ClassVar[Literal["classification", "detection"]] = "classification"
    needs_classifier: ClassVar[bool] = False  # the backbone is loaded with the classifier of its library
    needs_text: ClassVar[bool] = False  # the backbone is loaded with its text tower

    @property
    def reads(self) -> str:
        """What of the backbone the head reads: "native", its own pooling, or another that `Backbone.features` knows."""
        return "native"
