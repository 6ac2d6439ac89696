"""Linear and MLP heads on pooled features."""

from __future__ import annotations

from torch import nn

from vpt.config import LinearHead, MlpHead


def build_linear(config: LinearHead, features: int, classes: int) -> nn.Sequential:
    """Create a head from `features` channels to `classes` logits.

    By default the last layer is initialised with zero bias and small weights, so initial scores are nearly uniform.

    >>> build_linear(LinearHead(), features=8, classes=3)
    Sequential(
      (0): Dropout(p=0.0, inplace=False)
      (1): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    return nn.Sequential(*_last(config, features, classes))


def build_mlp(config: MlpHead, features: int, classes: int) -> nn.Sequential:
    """Create a head with hidden layers and GELU.

    >>> len(build_mlp(MlpHead(hidden=[16]), features=8, classes=3))
    4
    """
    layers: list[nn.Module] = []
    for hidden in config.hidden:
        layers += [nn.Linear(features, hidden), nn.GELU()]
        features = hidden
    return nn.Sequential(*layers, *_last(config, features, classes))


def _last(config: LinearHead, features: int, classes: int) -> list[nn.Module]:
    last = nn.Linear(features, classes)
    if config.init == "fan_out":
        nn.init.kaiming_normal_(last.weight, mode="fan_out")
    else:
        nn.init.trunc_normal_(last.weight, std=0.02)
    nn.init.constant_(last.bias, config.bias)
    return [nn.Dropout(config.dropout), last]
