"""Settings of the classification loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vpt.config.registry import KindSection, Registry


class LossSection(KindSection):
    """Base of the settings of a loss; `build` creates it for the labels of a run."""

    def build(self, labels: Any) -> Callable[[Any, Any], Any]:
        """Create a function of scores (B, K) and labels, (B,) indices or (B, K) zeros and ones, that returns a scalar.

        Args:
            labels: `vpt.training.losses.LabelInfo`: one or several labels per image, smoothing, class weights.
        """
        loss: Callable[[Any, Any], Any] = super().build(labels)
        return loss


class CrossEntropyLoss(LossSection):
    """Cross-entropy; binary cross-entropy of each class if images may have several labels."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    make: ClassVar[str] = "vpt.training.losses:cross_entropy"


class CoralLoss(LossSection):
    """For classes with an order: binary cross-entropy of being above each class but the last (Cao et al. 2020)."""

    kind: Literal["coral"] = "coral"
    make: ClassVar[str] = "vpt.training.losses:coral"


LOSSES: Registry[LossSection] = Registry("train.loss", "vpt.losses", LossSection, [CrossEntropyLoss, CoralLoss])

if TYPE_CHECKING:
    Loss = LossSection
else:
    Loss = LOSSES.annotation("cross_entropy")
