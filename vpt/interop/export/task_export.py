"""Base class of the exporters of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpt.data.channels import in_threes
from vpt.data.dataset import Record
from vpt.interop.export.program import Program, Run
from vpt.interop.export.written import Exported

Size = tuple[int, int] | None
Outputs = tuple[Tensor, ...]


class TaskExport(ABC):
    """A predictor as a program for other runtimes, and the comparison of outputs.

    A task derives its own, which is made from a loaded predictor and from the height and width of images, or None.

    Args:
        program: what is written.
        size: height and width of the images that the file takes; None: any.
        samples: inputs (H, W, 3) uint8 to compare, without those of the user.
        metric: name of the metric of `score`.
        unit: what `agreement` counts.
    """

    unit: ClassVar[str]

    program: Program
    size: Size
    samples: Sequence[np.ndarray]
    predictor: Any
    metric: str

    @abstractmethod
    def verify(self, run: Run, path: Path, samples: Sequence[np.ndarray]) -> Exported:
        """Compare a written file with the model and with prediction, on images of the size that it takes.

        Raises:
            UserError: the results differ.
        """

    @abstractmethod
    def reference(self, image: np.ndarray) -> Outputs:
        """What prediction returns for an image that was fitted by `fit`, in the form of the file's outputs."""

    @abstractmethod
    def measured(self, found: Outputs, record: Record) -> Any:
        """What `score` needs of the outputs for the fitted image of a record."""

    @abstractmethod
    def score(self, measured: Sequence[Any]) -> float:
        """The task's main metric of measured images, from 0 to 1."""

    @abstractmethod
    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """The number of classes, boxes or pixels in which two outputs for an image agree, and of all of them."""

    def fit(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3) in a size that the file takes."""
        if self.size is None or image.shape[:2] == self.size:
            return image
        height, width = self.size
        return in_threes(image, lambda pixels: np.array(Image.fromarray(pixels).resize((width, height))))

    def input(self, image: np.ndarray) -> Tensor:
        """The file's input for a fitted image: by default a batch of one."""
        return torch.from_numpy(np.ascontiguousarray(image))[None]
