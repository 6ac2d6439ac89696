"""What a task must say of itself, so that runs, resuming, budgets and artifacts are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import RunConfig
from vpt.data.dataset import LabelledData, Record
from vpt.data.evaluation_data import Asked
from vpt.models.base import Prompted
from vpt.training.context import Setting
from vpt.training.loop import Batches, Objective


class Closing(Protocol):
    """A loader with worker processes to end."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Fitting:
    """What one training needs: batches, what a step minimises, how an epoch is validated and begun.

    `of_scores` is the objective of scores that are there already, where it is a function of them alone.
    """

    batches: Batches
    objective: Objective
    validate: Callable[[], dict[str, Any]] | None
    of_scores: Objective | None = None
    before_epoch: Callable[[int], None] = lambda epoch: None
    loaders: Sequence[Closing] = field(default_factory=tuple)


class Task(Protocol):
    """A kind of prediction: classification, detection."""

    def load(self, config: RunConfig) -> LabelledData: ...
    def load_measured(self, config: RunConfig, asked: Asked) -> tuple[LabelledData, str]: ...
    def backbone(self, config: RunConfig) -> Backbone | None: ...
    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Prompted: ...
    def metric(self, data: LabelledData) -> str: ...
    def check(self, model: Prompted, setting: Setting) -> None: ...
    def begin(self, model: Prompted, setting: Setting) -> None: ...
    def finish(self, model: Prompted, setting: Setting) -> None: ...
    def learns(self, model: Prompted) -> bool: ...
    def fitting(self, model: Prompted, setting: Setting) -> Fitting: ...
    def measure(
        self, model: Prompted, setting: Setting, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> dict[str, Any]: ...
    def trial(self, model: Prompted, count: int, device: torch.device) -> Tensor: ...
    def pictures(self, model: Prompted, setting: Setting, measured: dict[str, Any], folder: Path) -> None: ...
