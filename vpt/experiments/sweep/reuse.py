"""Data and backbone shared by the trials of a sweep, so that later trials start faster."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from vpt.backbones.backbone import Backbone
from vpt.config import FrozenTuning, RunConfig
from vpt.data.data_module import DataCache
from vpt.training.context import RunContext, prepare
from vpt.training.tasks import task_of
from vpt.utils.console import Console


class Shared:
    """Cache of data and a frozen backbone for consecutive runs.

    Runs share data and backbone if their settings are equal; the result of each is bit for bit the same as without it.
    """

    def __init__(self) -> None:
        self._data = DataCache()
        self._backbone: Backbone | None = None
        self._loaded: Hashable = None  # settings of the loaded backbone

    def context(self, config: RunConfig, console: Console) -> RunContext:
        """Result of `prepare_run`, reusing data and backbone of previous runs with the same settings.

        Raises:
            UserError: errors of `prepare_run`; the backbone cannot be loaded.
        """
        context = prepare(config, task_of(config).load, console, self._data)
        return replace(context, backbone=self.backbone(context.config))

    def backbone(self, config: RunConfig) -> Backbone | None:
        """View of the backbone for the next run; None if the run changes weights and needs its own backbone.

        Raises:
            UserError: the backbone cannot be loaded.
        """
        if not isinstance(config.tuning, FrozenTuning):
            return None
        # The kind of head determines whether a classifier or a text encoder is loaded with it.
        wanted = (config.task, config.head.kind, config.backbone.model_dump_json())
        if wanted != self._loaded:
            self._backbone = None  # freed before the next one is loaded: two may not fit into memory
            self._backbone, self._loaded = task_of(config).backbone(config), wanted
        if self._backbone is None:
            return None
        # Models are built on the CPU, where initial values are drawn; the previous run may have used another device.
        return self._backbone.to("cpu").view()
