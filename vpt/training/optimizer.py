"""Optimiser with one parameter group per role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vpt.config import AdamWConfig, SgdConfig
from vpt.models.base import Prompted


def build_optimizer(model: Prompted, config: AdamWConfig | SgdConfig) -> torch.optim.Optimizer:
    """Create an optimiser of the trainable parameters, grouped by role; each group stores its base rate as `base_lr`.

    >>> from vpt.config import load_config
    >>> from vpt.models.classifier import backbone_for, build_model
    >>> config = load_config(overrides=["backbone=vit_tiny_patch16_224", "backbone.pretrained=false"])
    >>> model = build_model(config, backbone_for(config), classes=["a", "b"])
    >>> [group["role"] for group in build_optimizer(model, config.train.optimizer).param_groups]
    ['prompt', 'head']
    """
    roles: dict[str, list[torch.nn.Parameter]] = {}
    for _, role, parameter in model.trainable():
        roles.setdefault(role, []).append(parameter)
    groups = [
        {
            "params": parameters,
            "role": role,
            "base_lr": getattr(config.lr, role),
            "lr": getattr(config.lr, role),
            "weight_decay": getattr(config.weight_decay, role),
        }
        for role, parameters in roles.items()
    ]
    if not groups:  # a head computed from data; the optimiser has nothing to do
        groups = [{"params": [], "role": "none", "base_lr": 0.0, "lr": 0.0, "weight_decay": 0.0}]
    # Fused on a GPU: with so few parameters, kernel launches would dominate the step.
    return optimizer_of(groups, config, any(parameter.is_cuda for group in roles.values() for parameter in group))


def optimizer_of(
    groups: list[dict[str, Any]], config: AdamWConfig | SgdConfig, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimiser that the settings name, of given parameter groups.

    >>> groups = [{"params": [torch.zeros(1)], "weight_decay": 0.1}]
    >>> type(optimizer_of(groups, SgdConfig())).__name__
    'SGD'
    """
    if isinstance(config, AdamWConfig):
        return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=fused or None)
    return torch.optim.SGD(groups, momentum=config.momentum)


def set_rates(optimizer: torch.optim.Optimizer, rate: Callable[[float], float]) -> dict[str, float]:
    """Set the learning rate of every group to `rate` of its base rate; returns the rates by role."""
    for group in optimizer.param_groups:
        group["lr"] = rate(group["base_lr"])
    return {group["role"]: group["lr"] for group in optimizer.param_groups}


def optimizer_tensors(model: Prompted, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, '<parameter>/<key>'."""
    found = {}
    for name, _, parameter in model.trainable():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{name}/{key}"] = torch.as_tensor(value)
    return found


def load_optimizer_tensors(model: Prompted, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state that `optimizer_tensors` returned."""
    by_name = {name: parameter for name, _, parameter in model.trainable()}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        parameter = by_name[name]
        # Unless it is fused, AdamW stores its step count in a CPU tensor, whatever the device of the parameter.
        fused = any(group.get("fused") for group in optimizer.param_groups)
        target = torch.device("cpu") if slot == "step" and not fused else parameter.device
        optimizer.state[parameter][slot] = value.to(target)
