"""Base of the settings of all heads."""

from __future__ import annotations

from typing import ClassVar, Literal

from vpt.config.registry import KindSection


class HeadSection(KindSection):
    """Base of the settings of every head."""

    task: ClassVar[Literal["classification", "detection", "segmentation"]] = "classification"
    needs_classifier: ClassVar[bool] = False  # load the backbone with its pretrained classifier
    needs_text: ClassVar[bool] = False  # load the backbone with its text tower

    @property
    def reads(self) -> str:
        """Pooling whose output the head takes: "native" (the backbone's own), or another one of `Backbone.features`."""
        return "native"
