"""The tasks, and which one a configuration means."""

from __future__ import annotations

from vpt.config import RunConfig
from vpt.training.tasks.base import Task
from vpt.training.tasks.classification import Classification
from vpt.training.tasks.detection import Detection


def task_of(config: RunConfig) -> Task:
    """The task that a configuration names.

    >>> type(task_of(RunConfig())).__name__
    'Classification'
    """
    return Detection() if config.task == "detection" else Classification()
