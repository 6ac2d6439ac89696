"""Training one model in a setting, in one round or in several."""

from __future__ import annotations

from collections.abc import Callable

from vpt.config import E2vptPrompt, Prompt
from vpt.models.classifier import PromptedModel
from vpt.prompts.visual.e2vpt import EffectivePrompts
from vpt.training.checkpoint import Progress, TrainState
from vpt.training.context import Setting
from vpt.training.e2vpt_pruning import importance, prune
from vpt.training.loop import Steps, fit
from vpt.training.optimizer import build_optimizer
from vpt.training.tasks.base import Task
from vpt.training.tasks.classification import loss_for
from vpt.utils.run_log import RunLog


def train_model(state: TrainState, setting: Setting, task: Task, log: RunLog, save: Callable[[], None]) -> Steps[None]:
    """Train from wherever `state` stands to the end of the last round."""
    config = setting.config
    if not any(True for _ in state.model.trainable()):
        return  # made from data alone
    while True:
        yield from _round(state, setting, task, log, save)
        if state.progress.round + 1 == rounds(config.prompt):
            return
        _next_round(state, setting)
        save()


def rounds(prompt: Prompt) -> int:
    """How many trainings a prompt needs: two where it is pruned after the first.

    >>> rounds(E2vptPrompt()), rounds(E2vptPrompt(prune_tokens=0.5))
    (1, 2)
    """
    return 2 if isinstance(prompt, E2vptPrompt) and (prompt.prune_tokens > 0 or prompt.prune_segments > 0) else 1


def _next_round(state: TrainState, setting: Setting) -> None:
    """Prune, and rewind to the first values."""
    model, config = state.model, setting.config
    assert isinstance(model, PromptedModel)
    assert isinstance(model.prompt, EffectivePrompts)
    assert isinstance(config.prompt, E2vptPrompt)
    assert state.start is not None
    setting.console.say("pruning: measuring what the loss depends on")
    loader = setting.loader(model, setting.data.train, "train")
    loss_of = loss_for(setting)
    token, segment = importance(model, loader.epoch(0), loss_of, setting.device, setting.autocast)
    loader.close()
    model.load_owned(state.start)
    prune(model.prompt, token, segment, config.prompt.prune_tokens, config.prompt.prune_segments)
    left = int(model.prompt.token_mask.sum())
    values = int(model.prompt.mask(model.backbone.require_tower("prompts").width).sum())
    setting.console.say(
        f"pruned to {left} of {len(model.prompt.token_mask)} tokens, {values} values a layer; training again"
    )
    state.optimizer = build_optimizer(model, config.train.optimizer)
    before = state.progress
    state.progress = Progress(
        step=before.step,
        first_step=before.step,
        round=before.round + 1,
        seconds=before.seconds,
        peak_bytes=before.peak_bytes,
        joules=before.joules,
    )
    state.best = None
    state.average = None  # of weights that were pruned since


def _round(state: TrainState, setting: Setting, task: Task, log: RunLog, save: Callable[[], None]) -> Steps[None]:
    records = setting.data.train
    fitting = task.fitting(state.model, setting)
    try:
        yield from fit(
            state,
            fitting.batches,
            fitting.objective,
            fitting.validate,
            of_scores=fitting.of_scores,
            before_epoch=fitting.before_epoch,
            metric=task.metric(setting.data),
            config=setting.config.train,
            device=setting.device,
            autocast=setting.autocast,
            save=save,
            names=lambda index: [records[i].name for i in index.tolist()],
            log=log,
            console=setting.console,
        )
    finally:
        for loader in fitting.loaders:
            loader.close()
