"""What the trials of a sweep share, so that the second one starts at once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from vpt.backbones.backbone import Backbone
from vpt.config import FrozenTuning, RunConfig
from vpt.data.data_module import Readings
from vpt.training.context import RunContext, prepare
from vpt.training.tasks import task_of
from vpt.utils.console import Console


class Shared:
    """Data that was read, and a frozen backbone, for runs one after another.

    Runs use the same data and backbone where their settings are equal, and each ends bit for bit as it would alone.
    """

    def __init__(self) -> None:
        self._readings = Readings()
        self._backbone: Backbone | None = None
        self._loaded: Hashable = None  # the settings that the backbone was loaded by

    def context(self, config: RunConfig, console: Console) -> RunContext:
        """What `prepare_run` gives, with data and backbone of the runs before where they are the same.

        Raises:
            UserError: as `prepare_run` does; a backbone that cannot be loaded.
        """
        context = prepare(config, task_of(config).load, console, self._readings)
        return replace(context, backbone=self.backbone(context.config))

    def backbone(self, config: RunConfig) -> Backbone | None:
        """A view on the backbone for the next run; None where the run changes weights and so needs one of its own.

        Raises:
            UserError: a backbone that cannot be loaded.
        """
        if not isinstance(config.tuning, FrozenTuning):
            return None
        # The kind of head decides whether a classifier or a text tower is loaded with it.
        wanted = (config.task, config.head.kind, config.backbone.model_dump_json())
        if wanted != self._loaded:
            self._backbone = None  # gone before the next one comes: there may be no room for two
            self._backbone, self._loaded = task_of(config).backbone(config), wanted
        if self._backbone is None:
            return None
        # Models are built on the CPU, where their first values are drawn; the run before may have been elsewhere.
        return self._backbone.to("cpu").view()
