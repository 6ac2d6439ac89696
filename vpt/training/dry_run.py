"""`vpt train --dry-run`: everything that can go wrong before long work, and one training step, without a run folder."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from vpt.config import RunConfig
from vpt.training.compared_runs import compared_configs, folder_name, with_config
from vpt.training.context import RunContext
from vpt.training.memory_estimate import size
from vpt.training.run import prepare_run
from vpt.training.run_folder import free_name, refuse_taken, stem_of
from vpt.training.run_results import introduce
from vpt.training.trainer import Trainer
from vpt.utils.console import Console
from vpt.utils.distributed import refuse
from vpt.utils.errors import UserError
from vpt.utils.resource_usage import Usage


def dry_run(config: RunConfig, console: Console | None = None) -> None:
    """Check settings, data, backbone, memory and the run's name as `train` does, and train one batch.

    Initialisations that need images, such as a linear probe, use only as many as a batch has. No run folder is made and
    no tracker is started. The data check, which reads every image, is remembered for `train`.

    Raises:
        UserError: as in `train`; a step that needs more memory than there is, or whose loss is not finite.
    """
    refuse("--dry-run")
    console = console or Console()
    refuse_taken(config)
    others = compared_configs(config)
    context = prepare_run(config.with_({"data.cache": False}), console)
    folder = config.out / (config.name or free_name(config.out, stem_of(config)))
    _try(context, folder)
    for other in others:
        _try(with_config(context, other), folder / folder_name(other))
    train = context.config.train
    assert train.epochs is not None
    batches = len(context.data.train) / context.batch_size
    steps = max(1, math.floor(batches) if context.drop_last else math.ceil(batches))
    console.say(
        f"{train.epochs} epochs of {steps} steps with {context.batch_size} images each; --dry-run wrote nothing"
    )


def _try(context: RunContext, folder: object) -> None:
    """Say what would be trained, and train one batch of it."""
    console, count = context.console, context.batch_size
    usage = Usage(context.device)
    trained = Trainer(replace(context, data=context.data.thinned(count), console=Console(quiet=True)))
    introduce(trained.task, trained.model, context, f"{folder} (not made)")
    if not any(True for _ in trained.model.trainable()):
        console.say("no step: its head is computed from data")
        return
    started = time.monotonic()
    try:
        loss = trained.try_step()
    except torch.OutOfMemoryError:
        raise UserError(
            f"a step with {count} images does not fit into the memory of {context.device}; set a smaller "
            "train.batch_size, or train.accumulate=2 or more, or train.recompute=true"
        ) from None
    peak = f", peak memory {size(usage.peak_bytes())}" if context.device.type == "cuda" else ""
    console.say(f"one step: loss {loss:.4f}, {time.monotonic() - started:.1f} s with loading{peak}")
