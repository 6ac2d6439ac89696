"""TaskRes: a learned residual on frozen text features (Yu et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.config.prompts_clip import TaskresPrompt
from vpt.prompts.clip.learners import Learner
from vpt.prompts.clip.text_context import Texts
from vpt.utils.errors import UserError


class Taskres:
    """Builds TaskRes; see learners.py."""

    @staticmethod
    def build(config: TaskresPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """A row for every class."""
        return Learner(contexts=Residual(classes, backbone.feature_width("native"), config.scale))

    @staticmethod
    def skeleton(config: TaskresPrompt, backbone: Backbone, classes: Sequence[str]) -> Learner:
        """See learners.py."""
        return Learner(contexts=Residual(classes, backbone.feature_width("native"), config.scale))


class Residual(Texts):
    """Text features t + scale * x: t (K, D) are means over templates, not normalised, and x starts at zero.

    Args:
        names: class names.
        width: D.
        scale: factor of x.

    Parameters: K D.

    >>> texts = Residual(["cat", "dog"], 4, 0.5)
    >>> texts.read_templates([], [], torch.ones(2, 4), lambda: torch.ones(2, 4))
    >>> texts().shape
    torch.Size([1, 2, 4])
    """

    base: Tensor

    def __init__(self, names: Sequence[str], width: int, scale: float) -> None:
        super().__init__()
        self.names, self.scale = tuple(names), scale
        self.residual = nn.Parameter(torch.zeros(len(names), width))
        self.register_buffer("base", torch.zeros(0), persistent=False)

    def set_names(self, names: Sequence[str]) -> None:
        """Refuse other class names."""
        if tuple(names) != self.names:
            raise UserError("prompt=taskres supports its own classes only; use prompt=kgcoop for other names")

    def read_templates(
        self, names: Sequence[str], templates: Sequence[str], fixed: Tensor, raw: Callable[[], Tensor]
    ) -> None:
        """Compute t."""
        self.base = raw()

    def forward(self, condition: Tensor | None = None) -> Tensor:
        """See Texts.forward."""
        return (self.base + self.scale * self.residual)[None]
