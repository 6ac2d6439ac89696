"""Predicting with an artifact: `vpt.load(artifact).predict(images)`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vpt.backbones.quantization.linear import Dtype
from vpt.data.decode import BadImage, decode, examine
from vpt.data.deep_images import Deep
from vpt.data.detection.transforms import size_for
from vpt.data.transforms.classification import to_tensor
from vpt.heads.zero_shot import ZeroShot
from vpt.inference.image_inputs import Picture, find_images
from vpt.inference.load_model import load_model
from vpt.inference.results import Classification, Detections
from vpt.metrics.probabilities import probabilities
from vpt.models.artifact import Artifact
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel
from vpt.models.detection.detector import Detector
from vpt.models.detection.frozen_detector import FrozenDetector
from vpt.models.trusted_settings import Named
from vpt.prompts.pixel.to_image import pixels_of
from vpt.training.context import evaluation_transform
from vpt.training.predict_loop import inference
from vpt.training.step import Forward
from vpt.training.tasks.detection import sizes
from vpt.utils.device import autocast, pick_device, pick_precision
from vpt.utils.errors import UserError
from vpt.utils.precision import Precision


def load(
    path: str | Path,
    device: str = "auto",
    weights: str | Path | None = None,
    dtype: Dtype | None = None,
    precision: Precision = "fp32",
    backbone: str | None = None,
    templates: str | Path | Sequence[str] | None = None,
) -> Predictor:
    """Load an artifact, given it or its run folder, ready to predict.

    An artifact may be a stranger's: of what it names only networks are loaded that timm, open_clip or torchvision have
    built in. See docs/security.md.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        weights: the file of the backbone's weights, if it was trained with one and not by you on this machine, or if
            the file moved.
        dtype: hold the backbone's weights in another type than in training.
        precision: compute in bf16 or fp16, faster on a GPU, with scores that are right to two or three digits; auto
            does so on a GPU alone.
        backbone: name of the backbone; needed if it is a repository or a folder, as in
            "open_clip:hf-hub:OWNER/NAME", and was not named by you on this machine before.
        templates: in place of the artifact's own, as the setting head.templates: a name, a text, a file or some texts.

    Raises:
        UserError: a missing or damaged artifact, a backbone that cannot be had or is another one, or a precision that
            the device lacks.
    """
    precision = pick_precision(precision, pick_device(device))
    model, artifact = load_model(path, device, Named(backbone, weights, templates), dtype, precision=precision)
    kind = BoxPredictor if artifact.config.task == "detection" else Classifier
    return kind(model, artifact, precision=precision)


class Predictor:
    """A trained model, and what it takes to ask it about any picture."""

    def __init__(self, model: Prompted, artifact: Artifact, precision: Precision = "fp32") -> None:
        self.model: Any = model
        self.artifact = artifact
        self.classes = artifact.classes
        self.precision = precision
        self._device = next(model.parameters()).device
        self._autocast = autocast(precision, self._device)
        self._data = artifact.config.data
        self.deep: list[Deep] = []  # images deeper than 8 bits that were predicted

    @property
    def view(self) -> Any:
        """What makes of a picture (H, W, 3) uint8 the pixels (3, h, w) uint8 that the model takes; hashable."""
        raise NotImplementedError

    def predict(self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5) -> list[Any]:
        """Predict a file, a folder, a glob, a PIL picture, an array (H, W, 3) uint8, or a list of these.

        Args:
            images: what to predict; files of a folder and matches of a glob come in the order of their names.
            batch_size: pictures at a time.
            top: how many classes a classification names.

        Returns:
            A Classification or Detections for each picture.

        Raises:
            UserError: nothing there, or a picture that cannot be read (BadImage), by name.
        """
        found = []
        for result in self.predict_each(images, batch_size, top):
            if isinstance(result, BadImage):
                raise result
            found.append(result)
        return found

    def predict_each(
        self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5
    ) -> Iterator[Classification | Detections | BadImage]:
        """Like `predict`, one result at a time; a picture that cannot be read gives its BadImage instead."""
        if batch_size < 1 or top < 1:
            raise UserError(f"batch_size={batch_size} and top={top} must be at least 1")
        pictures = iter(find_images(images))
        while chunk := list(itertools.islice(pictures, batch_size)):
            decoded: list[np.ndarray | BadImage] = []
            for name, source in chunk:
                try:
                    found = examine(source, self._data.max_pixels, name, window=self._data.window)
                    decoded.append(found.pixels)
                    if found.depth is not None:
                        self.deep.append(Deep("", name, found.depth))
                except BadImage as error:
                    decoded.append(error)
            good = [
                (name, each) for (name, _), each in zip(chunk, decoded, strict=True) if isinstance(each, np.ndarray)
            ]
            results = iter(self.batch([name for name, _ in good], [pixels for _, pixels in good], top) if good else [])
            for each in decoded:
                yield each if isinstance(each, BadImage) else next(results)

    def batch(self, names: list[str], pixels: list[np.ndarray], top: int) -> Sequence[Classification | Detections]:
        """Results of decoded pictures (H, W, 3) uint8 with their names."""
        raise NotImplementedError


class Classifier(Predictor):
    """Classifies pictures. What does not depend on the picture is computed once, here.

    Args:
        model: the trained model.
        artifact: where it came from.
        forward: the model with what does not depend on the picture computed already.
        precision: of the passes.
    """

    def __init__(
        self, model: Prompted, artifact: Artifact, forward: Forward | None = None, precision: Precision = "fp32"
    ) -> None:
        super().__init__(model, artifact, precision)
        assert isinstance(model, PromptedModel)
        self._forward = forward or inference(model)
        self.transform = evaluation_transform(model, artifact.config.data)

    def with_classes(self, names: Sequence[str]) -> Classifier:
        """A classifier for other class names on the same backbone, where the head reads names; this one stays as it is.

        Raises:
            UserError: a head with classes of its own, or fewer than two different names.
        """
        if not isinstance(self.model.head, ZeroShot):
            raise UserError(
                f"{self.artifact.path} has a head with classes of its own; only head=zeroshot takes new names"
            )
        if len(set(names)) != len(names) or len(names) < 2:
            raise UserError(f"give two or more different class names, not {', '.join(names) or 'none'}")
        named = replace(self.artifact, classes=tuple(names))
        return Classifier(self.model.with_names(names), named, precision=self.precision)

    @torch.inference_mode()
    def prompted(self, images: Picture | Sequence[Picture]) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures (S, S, 3) uint8 of what the backbone gets to see: cropped, and under the pixel prompt.

        Raises:
            UserError: nothing there, or a picture that cannot be read (BadImage), by name.
        """
        for name, source in find_images(images):
            square = self.transform(decode(source, self._data.max_pixels, name, window=self._data.window), 0)
            seen = self.model.normalise(square[None].to(self._device))
            yield name, pixels_of(seen, self.model.mean / 255, self.model.std / 255)[0]

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return self.transform

    @torch.inference_mode()
    def batch(self, names: list[str], pixels: list[np.ndarray], top: int) -> list[Classification]:
        """Results of decoded pictures (H, W, 3) uint8 with their names."""
        images = torch.stack([self.transform(each, 0) for each in pixels])
        with self._autocast():
            logits = self._forward(images.to(self._device)).float().cpu()
        if not torch.isfinite(logits).all():
            raise UserError(f"{self.artifact.path} gives scores that are not finite; train it again")
        scores = probabilities(logits, self.artifact.multilabel)
        return [self.result(name, row, top) for name, row in zip(names, scores, strict=True)]

    def result(self, name: str, scores: torch.Tensor, top: int) -> Classification:
        """The result of scores (K,) from 0 to 1."""
        best = scores.sort(descending=True, stable=True)
        count = min(top, len(self.classes))
        labels = tuple(self.classes[index] for index in best.indices[:count].tolist())
        return Classification(name, labels, best.values[:count].numpy(), self.artifact.multilabel)


@dataclass(frozen=True)
class BoxView:
    """A picture as a detector takes it: its short side `size` pixels, unless its long one would be over `longest`."""

    size: int
    longest: int

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """Resize a picture (H, W, 3) uint8 to (3, h, w) uint8."""
        height, width = pixels.shape[:2]
        size = size_for(width, height, self.size, self.longest)
        picture = Image.fromarray(pixels)
        return to_tensor(
            np.asarray(picture if size == (width, height) else picture.resize(size, Image.Resampling.BILINEAR))
        )


class BoxPredictor(Predictor):
    """Finds boxes in pictures."""

    def __init__(self, model: Prompted, artifact: Artifact, precision: Precision = "fp32") -> None:
        super().__init__(model, artifact, precision)
        assert isinstance(model, Detector | FrozenDetector)
        self.sizes = sizes(artifact.config, model)  # short and longest side that images are resized to

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return BoxView(*self.sizes)

    def batch(self, names: list[str], pixels: list[np.ndarray], top: int) -> list[Detections]:
        """Results of decoded pictures (H, W, 3) uint8 with their names."""
        return self.found(names, [self.view(each) for each in pixels], [each.shape[1::-1] for each in pixels])

    def found(
        self, names: Sequence[str], images: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]]
    ) -> list[Detections]:
        """Results of pictures that the view has resized, (3, h, w) uint8, with the width and height they had before."""
        results = []
        # Memory goes with the largest of a batch, so few at a time.
        for start in range(0, len(images), 8):
            with self._autocast():
                found = self.model.detect([image.to(self._device) for image in images[start : start + 8]])
            for at, one in enumerate(found, start):
                results.append(self.result(names[at], one, images[at], *sizes[at]))
        return results

    def result(
        self, name: str, found: dict[str, torch.Tensor], image: torch.Tensor, width: int, height: int
    ) -> Detections:
        """The result of boxes in pixels of the resized image."""
        if not torch.isfinite(found["boxes"]).all() or not torch.isfinite(found["scores"]).all():
            raise UserError(f"{self.artifact.path} gives boxes that are not finite; train it again")
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        edge = torch.tensor([width, height] * 2, dtype=torch.float32)
        boxes = torch.minimum((found["boxes"].float().cpu() * scale).clamp_min(0), edge)
        # A box that lay outside of the picture has no area left inside it.
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Detections(
            name,
            width,
            height,
            boxes[inside].numpy(),
            found["labels"].cpu()[inside].numpy(),
            found["scores"].float().cpu()[inside].numpy(),
            self.classes,
        )
