"""Creates the module of a head from its settings. Available heads are listed in `vpt.config.heads.HEADS`."""

from __future__ import annotations

from torch import nn

from vpt.config import HeadSection
from vpt.config.heads import HEADS
from vpt.utils.errors import UserError


def build_head(config: HeadSection, features: int, classes: int) -> nn.Module:
    """Create a classification head.

    Args:
        features: number of input channels; for a label mapping, number of classes of the backbone's classifier.
        classes: number of classes of the task.

    Raises:
        UserError: a label mapping for more classes than the classifier has, or a plug-in that fails.

    >>> from vpt.config import LabelMapHead
    >>> build_head(LabelMapHead(), features=1000, classes=10).index.shape
    torch.Size([10, 1])
    """
    made = HEADS.built(config, features, classes)
    if not isinstance(made, nn.Module):
        raise UserError(f"head={config.kind} builds a {type(made).__name__}, not a torch.nn.Module")
    return made
