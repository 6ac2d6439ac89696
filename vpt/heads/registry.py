"""From the configuration to the head module."""

from __future__ import annotations

from torch import nn

from vpt.config import LabelMapHead, LinearHead, MlpHead
from vpt.heads.label_mapping import LabelMap
from vpt.heads.linear import build_linear
from vpt.utils.errors import UserError


def build_head(config: LinearHead | MlpHead | LabelMapHead, features: int, classes: int) -> nn.Module:
    """Build a head.

    Args:
        features: channels of what the head reads; classes of the backbone's classifier for a label mapping.
        classes: of the task.

    Raises:
        UserError: a label mapping for more classes than the classifier has.

    >>> build_head(LabelMapHead(), features=1000, classes=10).index.shape
    torch.Size([10, 1])
    """
    if not isinstance(config, LabelMapHead):
        return build_linear(config, features, classes)
    if config.method == "full":
        return nn.Linear(features, classes)
    if classes * config.sources > features:
        raise UserError(
            f"head.kind=labelmap needs {classes * config.sources} source classes for {classes} classes "
            f"(head.sources={config.sources}), but the backbone's classifier has {features}; "
            "lower head.sources, or choose head.method=full or head=linear"
        )
    return LabelMap(features, classes, config.sources)
