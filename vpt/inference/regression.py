"""Prediction of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vpt.inference.predictor import Predictor
from vpt.inference.result import Result
from vpt.models.artifact import Artifact
from vpt.models.classifier import PromptedModel
from vpt.training.context import evaluation_transform
from vpt.training.predict_loop import inference
from vpt.training.step import Forward
from vpt.utils.precision import Precision


class NumberResult(Result):
    """The predicted number of one image.

    Args:
        image: name of the image.
        name: name of the number, such as age.
        number: its value.

    Raises:
        ValueError: a number that is not finite.

    >>> NumberResult("a.jpg", "age", 31.4).to_dict()
    {'image': 'a.jpg', 'name': 'age', 'number': 31.4}
    """

    columns = ("image", "name", "number")

    def __init__(self, image: str, name: str, number: float) -> None:
        if not math.isfinite(number):
            raise ValueError(f"{image}: the number must be finite, found {number}")
        self.image, self.name, self.number = image, name, number

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 with the number below it; a small one is enlarged."""
        from vpt.inference.draw import with_lines
        from vpt.metrics.detection_plots import enlarged

        return with_lines(enlarged(pixels)[0], [(f"{self.name} {self.number:.6g}", 0.0, True)])

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {"image": self.image, "name": self.name, "number": float(f"{self.number:.7g}")}

    def rows(self) -> list[tuple[object, ...]]:
        """One row."""
        return [(self.image, self.name, f"{self.number:.7g}")]

    def lines(self) -> list[str]:
        """One line."""
        return [f"{self.name} {self.number:.6g}"]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberResult):
            return NotImplemented
        return (self.image, self.name, self.number) == (other.image, other.name, other.number)

    def __hash__(self) -> int:
        return hash((self.image, self.name, self.number))

    def __repr__(self) -> str:
        return f"NumberResult({self.image!r}: {self.name} {self.number:.6g})"


class NumberPredictor(Predictor):
    """Predicts a number; everything that does not depend on the image is computed once.

    Args:
        model: the trained model.
        artifact: its artifact.
        precision: precision of the passes.
    """

    result_type = NumberResult
    outputs = "numbers"
    options = frozenset({"draw"})

    def __init__(self, model: PromptedModel, artifact: Artifact, precision: Precision = "fp32") -> None:
        super().__init__(model, artifact, precision)
        self._forward: Forward = inference(model)
        self.transform = evaluation_transform(model, artifact.config.data)

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return self.transform

    @torch.inference_mode()
    def answer(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> list[NumberResult]:
        """See Predictor.answer."""
        with self._autocast():
            found = self._forward(torch.stack(list(inputs)).to(self._device))[:, 0].float().cpu()
        if not torch.isfinite(found).all():
            raise self._not_finite()
        return [NumberResult(name, self.classes[0], number) for name, number in zip(names, found.tolist(), strict=True)]
