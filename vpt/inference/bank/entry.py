"""What a bank knows of a task."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from vpt.inference.bank.task import LoadedTask
from vpt.models.artifact import Artifact


@dataclass(frozen=True)
class TaskInfo:
    """What a bank tells of a task."""

    name: str
    task: str  # classification or detection
    classes: tuple[str, ...]
    prompt: str
    image_size: int
    bytes: int
    loaded: bool


@dataclass
class Entry:
    """A task: what is known of it, and, unless memory was short, what it computes with."""

    artifact: Artifact  # without its tensors
    bytes: int
    view: Any  # what prepares images for it
    shape: Hashable  # tasks of one shape are batched together
    loaded: LoadedTask | None

    def info(self, name: str) -> TaskInfo:
        """What a bank tells of it."""
        config, size = self.artifact.config, self.artifact.preprocess.size
        classes, kind = self.artifact.classes, config.prompt.kind
        return TaskInfo(name, config.task, classes, kind, size, self.bytes, self.loaded is not None)
