"""Tasks, and the task of a configuration. The modules of a task are imported when a run needs them."""

from __future__ import annotations

from typing import Any

from vpt.config import RunConfig
from vpt.config.tasks import task_entry
from vpt.training.tasks.base import Task
from vpt.utils.plugins import imported


def task_of(config: RunConfig) -> Task[Any]:
    """The task of a configuration.

    >>> type(task_of(RunConfig())).__name__
    'Classification'
    """
    task: Task[Any] = imported(task_entry(config.task).training)()
    return task
