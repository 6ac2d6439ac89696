"""The tasks, and which one a configuration means. A task's modules are imported when a run needs it."""

from __future__ import annotations

from vpt.config import RunConfig
from vpt.training.tasks.base import Task
from vpt.utils.plugins import imported

# Only the task of a run is imported.
TASKS = {
    "classification": "vpt.training.tasks.classification:Classification",
    "detection": "vpt.training.tasks.detection:Detection",
}


def task_of(config: RunConfig) -> Task:
    """The task that a configuration names.

    >>> type(task_of(RunConfig())).__name__
    'Classification'
    """
    task: Task = imported(TASKS[config.task])()
    return task
