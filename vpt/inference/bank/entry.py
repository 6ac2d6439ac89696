"""Entry of a task in a bank."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vpt.config.data import Window
from vpt.inference.bank.task import LoadedTask
from vpt.models.artifact import Artifact


class ReadOptions(NamedTuple):
    """How images are read for a task: its `data.window` and `data.channels`."""

    window: Window
    channels: int | None = None


@dataclass(frozen=True)
class TaskInfo:
    """Public description of a task in a bank."""

    name: str
    task: str  # such as classification
    classes: tuple[str, ...]
    prompt: str
    image_size: int
    bytes: int
    loaded: bool


@dataclass
class Entry:
    """A task of a bank: its properties, and its model unless it was evicted from memory."""

    artifact: Artifact  # without its tensors
    bytes: int
    view: Any  # transform that prepares images for it
    shape: Hashable  # tasks of one shape are batched together
    loaded: LoadedTask | None

    def info(self, name: str) -> TaskInfo:
        """Public description of the task."""
        config, size = self.artifact.config, self.artifact.preprocess.size
        classes, kind = self.artifact.classes, config.prompt.kind
        return TaskInfo(name, config.task, classes, kind, size, self.bytes, self.loaded is not None)
