"""What every source format says of its files, and what the formats share."""

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
    """A file of another project.

    Args:
        state: its named tensors. Those that nobody takes are told as unknown.
    """

    title: ClassVar[str]
    clip: ClassVar[bool] = False  # needs a CLIP

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)
        self.taken: set[str] = set()

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether tensors of these names are such a file."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Our settings, as far as the file decides them."""
        raise NotImplementedError

    def settle(
        self, config: RunConfig, backbone: Backbone, names: Sequence[str] | None
    ) -> tuple[RunConfig, tuple[str, ...]]:
        """Settings and class names once the backbone is known.

        Raises:
            UserError: names that the file does not hold and nobody gave, or others than it holds.
        """
        if names is None:
            raise UserError(f"{self.title} does not hold the names of its classes; give them with --classes")
        return config, tuple(names)

    def preprocess(self, pre: Preprocess) -> Preprocess:
        """What the other project did to pixels, for a backbone that expects `pre`."""
        return pre

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """The file's tensors under our names.

        Raises:
            UserError: a file that does not fit the backbone, or was made on another one.
        """
        raise NotImplementedError

    def take(self, name: str) -> Tensor:
        """A tensor of the file, in float32.

        Raises:
            UserError: it is not there.
        """
        if name not in self.state:
            raise UserError(f"{self.title} lacks '{name}'; is it the whole file?")
        self.taken.add(name)
        return self.state[name].float()

    def under(self, prefix: str) -> list[str]:
        """Names that start with `prefix`."""
        return [name for name in self.state if name.startswith(prefix)]

    def count(self, prefix: str, suffix: str = "") -> int:
        """How many numbered tensors `prefix` + 0, 1, ... there are."""
        number = 0
        while f"{prefix}{number}{suffix}" in self.state:
            number += 1
        return number

    def same(self, name: str, ours: Tensor, backbone: str) -> None:
        """Hold a frozen weight of the file to the backbone's.

        Raises:
            UserError: they differ by more than the file's precision.
        """
        half = self.state[name].dtype in (torch.float16, torch.bfloat16)
        theirs, ours = self.take(name), ours.detach().cpu().float()
        rtol, atol = (5e-3, 1e-3) if half else (1e-4, 1e-6)  # halves may be averages of many epochs
        if theirs.numel() != ours.numel() or not torch.allclose(theirs.reshape(ours.shape), ours, rtol, atol):
            raise UserError(
                f"{self.title} was trained on other weights than those of {backbone} ('{name}' differs); name the "
                "backbone it was trained on, or its file with backbone.weights=FILE"
            )


def fit(name: str, tensor: Tensor, shape: Sequence[int], title: str, backbone: str) -> Tensor:
    """The tensor, if it has the shape that the model wants.

    Raises:
        UserError: another shape, with both.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"{title} does not fit {backbone}: '{name}' is {tuple(tensor.shape)}, not {tuple(shape)}; name the "
            "backbone and the classes it was trained with"
        )
    return tensor
