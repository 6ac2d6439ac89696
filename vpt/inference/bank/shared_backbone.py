"""The shared backbone of a bank."""

from __future__ import annotations

import threading

import torch

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.backbones.layer_changes import LayerChanges
from vpt.config import BackboneConfig
from vpt.inference.bank.deadline import Deadline
from vpt.inference.bank.task import check_fits, reads_names
from vpt.models.artifact import Artifact
from vpt.models.trusted_settings import backbone_of
from vpt.utils.precision import Precision


class SharedBackbone:
    """Backbone that is loaded for the first task, and again with its text encoder for the first task that needs it.

    Args:
        config: settings of the backbone; None for that of the first task.
        device: device to run on.
        precision: precision of the passes.
        deadline: stops passes through it.
    """

    def __init__(
        self, config: BackboneConfig | None, device: torch.device, precision: Precision, deadline: Deadline
    ) -> None:
        self.chosen = config is not None
        self.loading = threading.RLock()  # does not block predictions
        self.changes = LayerChanges()  # of its layers, by the tasks
        self._config = config
        self._device, self._precision, self._deadline = device, precision, deadline
        self._loaded: Backbone | None = None

    @property
    def name(self) -> str | None:
        """Name of the backbone; None until it is loaded."""
        return None if self._loaded is None else self._loaded.name

    def fitting(self, task: str, artifact: Artifact) -> Backbone:
        """The backbone for another task.

        Raises:
            UserError: the backbone cannot be loaded, or the task was trained on another one.
        """
        with self.loading:
            wanted = self._config or backbone_of(artifact)
            if self._loaded is None:
                self._loaded = self._prepared(load_backbone(wanted, text=reads_names(artifact), dynamic=True))
                self._config = wanted
            elif self._loaded.text is None and reads_names(artifact) and self._loaded.library == "open_clip":
                whole = load_backbone(wanted, text=True, dynamic=True)
                if self._loaded.fingerprint in whole.fingerprints:
                    self._loaded = self._prepared(self._loaded.with_text(whole))
            backbone = self._loaded
        check_fits(task, artifact, backbone)
        return backbone

    def _prepared(self, backbone: Backbone) -> Backbone:
        backbone.round_to(self._precision)
        self._deadline.watch(backbone)
        return backbone.to(self._device)
