"""Base class of tasks, so that training, resuming, estimates and artifacts work the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import RunConfig
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.evaluation_data import EvaluationRequest
from vpt.models.base import Prompted
from vpt.models.classifier import backbone_for
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.step import Batches, Objective

M = TypeVar("M", bound=Prompted)
Metrics = Mapping[str, Any]  # of one split: a TypedDict of the task, as written to metrics.json


class Closing(Protocol):
    """A loader with worker processes that must be closed."""

    def close(self) -> None: ...


class Score(NamedTuple):
    """Result of a validation: the main metric, larger is better; the loss if the task measures one; metrics to log."""

    score: float
    loss: float | None = None
    more: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class TrainingParts:
    """Parts of a task that the trainer uses.

    Args:
        batches: batches of an epoch.
        objective: training objective of a step.
        validate: scores the current weights on the validation split; None without such a split.
        before_epoch: called with the number of the epoch, counted from 0, before it starts.
        loaders: loaders to close after training.
        collective: whether the objective waits for other processes, so that all run the same number of passes.
    """

    batches: Batches
    objective: Objective
    validate: Callable[[], Score] | None
    before_epoch: Callable[[int], None] = lambda epoch: None
    loaders: Sequence[Closing] = field(default_factory=tuple)
    collective: bool = False


class Task(ABC, Generic[M]):
    """A task whose model is an `M`. The abstract methods are its core; the others have defaults."""

    @abstractmethod
    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set, in the splits requested by the settings."""

    @abstractmethod
    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> M:
        """Build the model, on an already loaded backbone or on a new one."""

    @abstractmethod
    def metric(self, data: LabelledData) -> str:
        """Name of the metric that ranks epochs; larger is better."""

    @abstractmethod
    def training_parts(self, model: M, context: RunContext) -> TrainingParts:
        """Create batches, objective and validation of a run."""

    @abstractmethod
    def measure(
        self, model: M, context: RunContext, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> Metrics:
        """Metrics of a trained model on records; with a folder, predictions are written there."""

    @abstractmethod
    def trial(self, model: M, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images, for estimating memory."""

    def load_for_evaluation(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
        """Read only the split that a finished artifact is evaluated on, and return its name; default: as for
        training."""
        return self.load(config), request.split or "test"

    def backbone(self, config: RunConfig) -> Backbone | None:
        """Load the backbone to which `build` adds a prompt and a head; None if `build` loads it."""
        return backbone_for(config)

    def check(self, model: M, context: RunContext) -> None:
        """Raise a UserError if settings do not fit the data, before anything is computed or written."""

    def image_size(self, model: M, context: RunContext) -> str:
        """The size of the images that the model gets, for the log."""
        return f"{model.backbone.preprocess.size} px"

    def advice(self, model: M, context: RunContext) -> str:
        """A hint at settings that might suit the data better; "" for none."""
        return ""

    def loader(self, model: M, context: RunContext, records: Sequence[Record], training: bool) -> Loader | None:
        """Batches of records, augmented and shuffled for training, for pictures; None if the task draws none."""
        return None

    def examples(
        self, batch: Any, records: Sequence[Record], data: LabelledData, most: int
    ) -> list[tuple[np.ndarray, str]]:
        """Images (H, W, 3) uint8 of a batch of records with their annotations drawn or named; empty if it has none."""
        return []

    def predictions_picture(
        self, context: RunContext, measured: Mapping[str, Metrics], split: str, places: Sequence[int], folder: Path
    ) -> np.ndarray | None:
        """Images at these places of a split with their predictions, which `measure` wrote into the folder, beside the
        truth; None if the task draws none."""
        return None

    def is_trainable(self, model: M) -> bool:
        """Whether the model has trainable parameters, or parts that are computed from data."""
        return any(True for _ in model.trainable())

    def initialize(self, model: M, context: RunContext) -> Baseline | None:
        """Initialise the parts of a new model that are computed from data; returns a model that counts as epoch 0."""
        return None

    def untrained(self, model: M, context: RunContext) -> tuple[Prompted, RunContext]:
        """The model that `initialize` returned, and its context."""
        return model, context

    def finish(self, model: M, context: RunContext) -> None:
        """Fit what is fitted after training."""

    def plots(self, model: M, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """Write plots of a finished run besides its training curves; `measured` has the metrics by split."""
