"""Interface of tasks, so that training, resuming, estimates and artifacts work the same for all of them."""

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
from vpt.data.evaluation_data import EvaluationRequest
from vpt.models.base import Prompted
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.step import Batches, Objective


class Closing(Protocol):
    """A loader with worker processes that must be closed."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrainingParts:
    """Parts of a task that the trainer uses.

    Args:
        batches: batches of an epoch.
        objective: training objective of a step.
        validate: computes metrics of the current weights on the validation split; None without such a split.
        before_epoch: called with the number of the epoch, counted from 0, before it starts.
        loaders: loaders to close after training.
    """

    batches: Batches
    objective: Objective
    validate: Callable[[], dict[str, Any]] | None
    before_epoch: Callable[[int], None] = lambda epoch: None
    loaders: Sequence[Closing] = field(default_factory=tuple)


class Task(Protocol):
    """Interface of a task, such as classification or detection."""

    def load(self, config: RunConfig) -> LabelledData: ...
    def load_measured(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]: ...
    def backbone(self, config: RunConfig) -> Backbone | None: ...
    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Prompted: ...
    def metric(self, data: LabelledData) -> str: ...
    def check(self, model: Prompted, context: RunContext) -> None: ...
    def begin(self, model: Prompted, context: RunContext) -> Baseline | None: ...
    def finish(self, model: Prompted, context: RunContext) -> None: ...
    def untrained(self, model: Prompted, context: RunContext) -> tuple[Prompted, RunContext]: ...
    def is_trainable(self, model: Prompted) -> bool: ...
    def training_parts(self, model: Prompted, context: RunContext) -> TrainingParts: ...
    def measure(
        self, model: Prompted, context: RunContext, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> dict[str, Any]: ...
    def trial(self, model: Prompted, count: int, device: torch.device) -> Tensor: ...
    def pictures(self, model: Prompted, context: RunContext, measured: dict[str, Any], folder: Path) -> None: ...
