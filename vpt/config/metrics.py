"""Settings of metrics and of the answers that follow from scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vpt.config.base import Section


class MetricsConfig(Section):
    """Metrics of classification, and the threshold between two answers."""

    at: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="the specificity that a sensitivity is given at, and the reverse; also the one that "
        "metrics.threshold requires",
    )
    threshold: Literal["youden", "sensitivity", "specificity"] | None = Field(
        None,
        description="predict the positive class of two, or a label of several, from a score that is chosen on "
        "validation: by Youden's index, or for a sensitivity or specificity of metrics.at; default: the most "
        "confident class, labels above 0.5",
    )
    unsure: float | None = Field(
        None, gt=0, lt=0.5, description="with a threshold: scores that differ from it by less than this are unsure"
    )
    unknown: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description='answer "none of these" for images that are less like the training images than most validation '
        "images; this fraction of those, such as 0.05, is rejected too",
    )
