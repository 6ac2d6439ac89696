"""Parallelism and memory of training: sharding, activation checkpointing and compilation of a model's layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from vpt.backbones.parallel.activation_checkpoint import Recomputed
from vpt.backbones.parallel.compile import Compiler
from vpt.config import TrainConfig
from vpt.models.base import Prompted
from vpt.utils.distributed import ranks


def prepare_for_training(model: Prompted, config: TrainConfig, device: torch.device, precision: str = "fp32") -> None:
    """Move a model to its device and apply `train.recompute`, `train.shard` and `train.compile`, in place.

    Args:
        model: a model with its own backbone, or with one shared by runs of the same precision.
        config: the settings.
        device: device to train on.
        precision: precision of training; frozen layers are stored in the type that autocast would cast them to.

    Raises:
        UserError: a backbone without layers that can be recomputed or sharded.
    """
    backbone = model.backbone
    if config.recompute or config.shard:
        backbone.require_tower("recomputed or sharded layers")
    backbone.round_to(precision)
    if config.drop_path:
        model.drop_paths = backbone.with_drop_path(config.drop_path)  # random while the model trains
    # CUDA graphs are recorded around compiled layers, see cuda_graphs.py.
    mode = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(config.compile)
    by_layer = backbone.tower is not None and not config.recompute
    if config.recompute:
        backbone.with_blocks(Recomputed.of)
    elif mode is not None and by_layer:
        backbone.with_blocks(Compiler(mode).view)
    if config.shard and distributed.is_available() and distributed.is_initialized():  # also a single process
        from vpt.backbones.parallel.fsdp import shard_layers  # takes a second to import

        shard_layers(backbone, device, ranks().count)
    model.to(device)
    if mode is not None and not by_layer:
        compiled: Any = backbone
        for name in ("features", "grids"):
            plain = getattr(type(backbone), name).__get__(backbone)  # not one compiled for another run
            setattr(compiled, name, torch.compile(plain, mode=mode))
