"""Prediction of classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vpt.data.decode import decode
from vpt.heads.zero_shot import ZeroShot
from vpt.inference.classification import Classification
from vpt.inference.image_inputs import Picture, find_images, with_slices
from vpt.inference.predictor import Predictor
from vpt.metrics.probabilities import probabilities
from vpt.metrics.score_metrics import positive_of
from vpt.metrics.threshold import Decision, stored_thresholds
from vpt.models.artifact import Artifact
from vpt.models.classifier import PromptedModel
from vpt.prompts.pixel.to_image import pixels_of
from vpt.training.context import evaluation_transform
from vpt.training.predict_loop import outputs
from vpt.training.step import Forward
from vpt.utils.errors import UserError
from vpt.utils.precision import Precision


class Classifier(Predictor):
    """Image classifier; everything that does not depend on the image is computed once.

    Args:
        model: the trained model.
        artifact: its artifact.
        forward: the model for inference.
        precision: precision of the passes.
    """

    result_type = Classification
    options = frozenset({"classes", "prompted", "draw", "threshold"})

    def __init__(
        self, model: PromptedModel, artifact: Artifact, forward: Forward | None = None, precision: Precision = "fp32"
    ) -> None:
        super().__init__(model, artifact, precision)
        self._forward = forward or outputs(model)
        self.transform = evaluation_transform(model, artifact.config.data)
        self.decision = None if artifact.config.metrics.threshold is None else self._decision()

    def with_threshold(self, threshold: float | None) -> Classifier:
        """A classifier that predicts the positive class, or labels, from this score, or from that of validation (None).

        Raises:
            UserError: more than two classes, or an artifact without a threshold.
        """
        changed = copy.copy(self)
        changed.decision = self._decision(threshold)
        if changed.decision is None:
            raise UserError(f"{self.artifact.path} has no threshold: it needs two classes or labels, and validation")
        return changed

    def _decision(self, threshold: float | None = None) -> Decision | None:
        """How the scores become an answer, by the thresholds in the artifact or a given one."""
        config, several = self.artifact.config, self.artifact.multilabel
        found = stored_thresholds(self.artifact.metrics, len(self.classes), several)
        if threshold is not None and (several or len(self.classes) == 2):
            found = (threshold,) * (len(self.classes) if several else 1)
        named = config.data.positive if config.data.positive in self.classes else None
        positive = None if several else positive_of(self.classes, named)
        return None if found is None else Decision(found, positive, config.metrics.unsure or 0.0)

    def with_classes(self, names: Sequence[str]) -> Classifier:
        """A classifier for other class names on the same backbone, if the head reads names; this one does not change.

        Raises:
            UserError: a head with fixed classes, or fewer than two different names.
        """
        if not isinstance(self.model.head, ZeroShot):
            raise UserError(
                f"{self.artifact.path} has a head with fixed classes; only head=zeroshot supports new names"
            )
        if len(set(names)) != len(names) or len(names) < 2:
            raise UserError(f"specify two or more different class names, not {', '.join(names) or 'none'}")
        named, model = replace(self.artifact, classes=tuple(names), metrics={}), self.model.with_names(names)
        model.unknown = None  # it knows the classes of training
        return Classifier(model, named, precision=self.precision)

    @torch.inference_mode()
    def prompted(self, images: Picture | Sequence[Picture]) -> Iterator[tuple[str, np.ndarray]]:
        """Names and images (S, S, 3) uint8 as the backbone sees them: cropped, with the pixel prompt.

        Raises:
            UserError: there are no images, or an image cannot be read (BadImage).
        """
        for name, source in with_slices(find_images(images), self._data):
            data = self._data
            pixels = decode(source, data.max_pixels, name, window=data.window, channels=data.channels)
            square = self.transform(pixels, 0)
            seen = self.model.normalise(square[None].to(self._device))
            yield name, pixels_of(seen, self.model.mean / 255, self.model.std / 255)[0]

    @torch.inference_mode()
    def features(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features (B, D) of images transformed by `view`, the input of the head, on the CPU in float32."""
        with self._autocast():
            found: torch.Tensor = self.model.features(torch.stack(list(inputs)).to(self._device))
        return found.float().cpu()

    @property
    def columns(self) -> tuple[str, ...]:
        """See Predictor.columns."""
        return Classification.columns_with(self.decision is not None, self.model.unknown is not None)

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return self.transform

    @torch.inference_mode()
    def answer(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> list[Classification]:
        """See Predictor.answer."""
        with self._autocast():
            found = self._forward(torch.stack(list(inputs)).to(self._device)).float().cpu()
        return [self.read(name, row, top) for name, row in zip(names, found, strict=True)]

    def read(self, name: str, found: torch.Tensor, top: int) -> Classification:
        """Convert the logits (K,) of an image, which the score of unknown images may follow, to a result.

        Raises:
            UserError: an output that is not finite.
        """
        if not torch.isfinite(found).all():
            raise self._not_finite()
        logits, more = found[: len(self.classes)], found[len(self.classes) :]
        return self.result(name, probabilities(logits, self.artifact.multilabel), top, *more.tolist())

    def result(self, name: str, scores: torch.Tensor, top: int, unknown: float | None = None) -> Classification:
        """Convert scores (K,) from 0 to 1 to a result; `unknown` is the score of none of them."""
        best = scores.sort(descending=True, stable=True)
        count = min(top, len(self.classes))
        labels = tuple(self.classes[index] for index in best.indices[:count].tolist())
        values, several = best.values[:count].numpy(), self.artifact.multilabel
        if self.decision is None:
            return Classification(name, labels, values, several, unknown_score=unknown)
        decided, unsure = ([self.classes[at] for at in each] for each in self.decision.decide(scores.double().numpy()))
        return Classification(name, labels, values, several, decided, unsure, unknown)
