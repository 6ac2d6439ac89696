"""Settings of the loss of classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vpt.config.registry import KindSection, Registry


class LossSection(KindSection):
    """Base of the settings of a loss: `build` makes it for the labels of a run."""

    def build(self, labels: Any) -> Callable[[Any, Any], Any]:
        """A function of scores (B, K) and labels, (B,) indices or (B, K) zeros and ones, to a scalar.

        Args:
            labels: `vpt.training.losses.LabelInfo`: several labels an image or one, smoothing, weights of classes.
        """
        loss: Callable[[Any, Any], Any] = super().build(labels)
        return loss


class CrossEntropyLoss(LossSection):
    """Cross-entropy; binary cross-entropy of each class where an image may have several labels."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    make: ClassVar[str] = "vpt.training.losses:cross_entropy"


LOSSES = Registry("train.loss", "vpt.losses", LossSection, [CrossEntropyLoss])

if TYPE_CHECKING:
    Loss = LossSection
else:
    Loss = LOSSES.annotation("cross_entropy")
