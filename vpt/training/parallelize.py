"""How a model is laid out for training: on one device or several, its layers kept or recomputed, compiled or not."""

from __future__ import annotations

from typing import Any

import torch

from vpt.backbones.block import Block
from vpt.backbones.parallel.activation_checkpoint import Recomputed
from vpt.backbones.parallel.compile import Compiler
from vpt.backbones.parallel.fsdp import Shard, Sharded
from vpt.config import TrainConfig
from vpt.models.base import Prompted
from vpt.utils.distributed import ranks
from vpt.utils.errors import UserError


def arrange(model: Prompted, config: TrainConfig, device: torch.device, precision: str = "fp32") -> None:
    """Bring a model to its device as `train.recompute`, `train.shard` and `train.compile` say, in place.

    Args:
        model: with a backbone of its own, or one shared by runs of the same precision.
        config: the settings.
        device: where it will train.
        precision: in which; frozen layers are held in what autocast would round them to in every pass.

    Raises:
        UserError: a backbone without layers that could be recomputed or dealt out.
    """
    backbone = model.backbone
    if config.recompute or config.shard:
        backbone.require_tower("recomputed or dealt out layers")
    backbone.round_to(precision)
    if config.drop_path:
        model.drop_paths = backbone.with_drop_path(config.drop_path)  # they draw while the model trains
    if config.shard and ranks().count > 1:

        def dealt(block: Block) -> Sharded:
            shard = Shard(block.layer, ranks().rank, ranks().count, device)
            backbone.elsewhere += shard.count
            return Sharded.of(block, shard)

        if backbone.text is not None:
            raise UserError("train.shard is for backbones without a text tower; leave it out")
        backbone.with_blocks(dealt)
    elif config.recompute:
        backbone.with_blocks(Recomputed.of)
    model.to(device)
    if config.compile not in ("auto", "none"):
        _compile(model, config)


def _compile(model: Prompted, config: TrainConfig) -> None:
    backbone = model.backbone
    # Graphs of CUDA are recorded around compiled layers, see graphs.py.
    mode = {"max-autotune": "max-autotune-no-cudagraphs"}.get(config.compile, config.compile)
    if backbone.tower is not None and not config.recompute and not config.shard:
        backbone.with_blocks(Compiler(mode).view)
        return
    compiled: Any = backbone
    for name in ("features", "grids"):
        plain = getattr(type(backbone), name).__get__(backbone)  # not one that was compiled for a run beside this
        setattr(compiled, name, torch.compile(plain, mode=mode))
