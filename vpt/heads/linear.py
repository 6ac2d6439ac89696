"""Linear and MLP heads over pooled features."""

from __future__ import annotations

from torch import nn

from vpt.config import LinearHead, MlpHead


def build_linear(config: LinearHead | MlpHead, features: int, classes: int) -> nn.Sequential:
    """Build a head from `features` channels to `classes` logits.

    By default the last layer starts at zero bias and small weights, so that training starts near uniform scores.

    >>> build_linear(LinearHead(), features=8, classes=3)
    Sequential(
      (0): Dropout(p=0.0, inplace=False)
      (1): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    layers: list[nn.Module] = []
    if isinstance(config, MlpHead):
        for hidden in config.hidden:
            layers += [nn.Linear(features, hidden), nn.GELU()]
            features = hidden
    last = nn.Linear(features, classes)
    if config.init == "fan_out":
        nn.init.kaiming_normal_(last.weight, mode="fan_out")
    else:
        nn.init.trunc_normal_(last.weight, std=0.02)
    nn.init.constant_(last.bias, config.bias)
    return nn.Sequential(*layers, nn.Dropout(config.dropout), last)
