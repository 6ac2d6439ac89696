"""Base class of all source formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import RunConfig
from vpt.data.normalization import Preprocess
from vpt.models.classifier import PromptedModel
from vpt.utils.errors import UserError


class Source:
    """A checkpoint of another project.

    Args:
        state: its named tensors. Those that are not used are reported as unknown.
    """

    title: ClassVar[str]
    clip: ClassVar[bool] = False  # requires a CLIP

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)
        self.taken: set[str] = set()

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names has this format."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The corresponding settings of vpt, as far as the file determines them."""
        raise NotImplementedError

    def resolve(
        self, config: RunConfig, backbone: Backbone, names: Sequence[str] | None
    ) -> tuple[RunConfig, tuple[str, ...]]:
        """Determine settings and class names once the backbone is loaded.

        Raises:
            UserError: class names that are neither in the file nor given, or differ from those in the file.
        """
        if names is None:
            raise UserError(f"{self.title} does not contain its class names; give them with --classes")
        return config, tuple(names)

    def preprocess(self, pre: Preprocess) -> Preprocess:
        """Preprocessing of the other project, for a backbone that expects `pre`."""
        return pre

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """The file's tensors with the parameter names of vpt.

        Raises:
            UserError: a file that does not fit the backbone, or was trained on another one.
        """
        raise NotImplementedError

    def take(self, name: str) -> Tensor:
        """A tensor of the file in float32, marked as used.

        Raises:
            UserError: there is no such tensor.
        """
        if name not in self.state:
            raise UserError(f"{self.title} has no tensor '{name}'; is the file complete?")
        self.taken.add(name)
        return self.state[name].float()

    def under(self, prefix: str) -> list[str]:
        """Names that start with `prefix`."""
        return [name for name in self.state if name.startswith(prefix)]

    def count(self, prefix: str, suffix: str = "") -> int:
        """Number of consecutive tensors named `prefix` + 0, 1, ..."""
        number = 0
        while f"{prefix}{number}{suffix}" in self.state:
            number += 1
        return number

    def same(self, name: str, ours: Tensor, backbone: str) -> None:
        """Check that a frozen weight of the file equals the backbone's.

        Raises:
            UserError: they differ by more than the precision of the file.
        """
        half = self.state[name].dtype in (torch.float16, torch.bfloat16)
        theirs, ours = self.take(name), ours.detach().cpu().float()
        rtol, atol = (5e-3, 1e-3) if half else (1e-4, 1e-6)  # half-precision values may be averages of many epochs
        if theirs.numel() != ours.numel() or not torch.allclose(theirs.reshape(ours.shape), ours, rtol, atol):
            raise UserError(
                f"{self.title} was trained on other weights than those of {backbone} ('{name}' differs); name the "
                "backbone it was trained on, or its file with backbone.weights=FILE"
            )


def fit(name: str, tensor: Tensor, shape: Sequence[int], title: str, backbone: str) -> Tensor:
    """Return the tensor if it has the required shape.

    Raises:
        UserError: another shape; the message names both.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"{title} does not fit {backbone}: '{name}' is {tuple(tensor.shape)}, not {tuple(shape)}; name the "
            "backbone and the classes it was trained with"
        )
    return tensor
