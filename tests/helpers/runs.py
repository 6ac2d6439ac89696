"""Small runs for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from vpt.config import RunConfig, load_config
from vpt.training.trainer import Trainer
from vpt.utils.console import Console

QUIET = Console(quiet=True)
NET = ["backbone=test_vit_patch8_32", "backbone.pretrained=false"]  # needs the fixture small_net


def settings(shapes: Path, out: Path, *words: str) -> RunConfig:
    """Three epochs of five steps on the shapes, with dropout and augmentation. The head starts at random: on so small a
    network a probe might be better than any epoch, and would be kept."""
    own_head = any(word.startswith("head") for word in words)
    words = words if own_head else ("head.init=small", *words)
    common = [f"data={shapes}", f"out={out}", "name=run", *NET, "train.epochs=3", "train.batch_size=8"]
    return load_config(overrides=[*common, "prompt.tokens=4", "prompt.dropout=0.1", "data.augment=light", *words])


def states_of_epochs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What a model owns at the end of every epoch that is trained from now on."""
    states: list[dict[str, Tensor]] = []
    usual = Trainer.end_epoch

    def remember(trainer: Trainer) -> None:
        states.append({name: value.clone() for name, value in trainer.model.owned_state().items()})
        usual(trainer)

    monkeypatch.setattr(Trainer, "end_epoch", remember)
    return states


@contextmanager
def interrupted(step: int, save: bool = False) -> Iterator[None]:
    """Interrupt training in the block before an optimiser step, counted from 0; with `save` after a checkpoint."""
    usual = Trainer.train_step

    def stops(trainer: Trainer, batch: Any) -> None:
        if trainer.progress.step == step:
            if save:
                trainer.read_figures()
                trainer.save()
            raise KeyboardInterrupt
        usual(trainer, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_step", stops)
        yield
