"""Prediction with an artifact: `vpt.load(artifact).predict(images)`."""

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
    overlap: float | None = None,
) -> Predictor:
    """Load an artifact, from its file or run folder, for prediction.

    An artifact is untrusted: only networks built into timm, open_clip or torchvision are loaded by the name in it. See
    docs/security.md.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        weights: weight file of the backbone, if it was trained with one and not by you on this machine, or if the
            file has moved.
        dtype: store the backbone's weights in another type than in training.
        precision: bf16 or fp16 is faster on a GPU, with scores accurate to two or three digits; auto uses it on a GPU
            only.
        backbone: name of the backbone; needed if it is a repository or a folder, as in
            "open_clip:hf-hub:OWNER/NAME", and was not named by you on this machine before.
        templates: replace the artifact's, as the setting head.templates: a name, a text, a file or several texts.
        overlap: of a detector, the IoU threshold of non-maximum suppression, instead of the artifact's.

    Raises:
        UserError: the artifact is missing or damaged, the backbone is not available or another one, or the device does
            not support the precision.
    """
    precision = pick_precision(precision, pick_device(device))
    model, artifact = load_model(path, device, Named(backbone, weights, templates), dtype, None, precision, overlap)
    kind = BoxPredictor if artifact.config.task == "detection" else Classifier
    return kind(model, artifact, precision=precision)


class Predictor:
    """Base class of predictors: a trained model with its preprocessing."""

    def __init__(self, model: Prompted, artifact: Artifact, precision: Precision = "fp32") -> None:
        self.model: Any = model
        self.artifact = artifact
        self.classes = artifact.classes
        self.precision = precision
        self._device = next(model.parameters()).device
        self._autocast = autocast(precision, self._device)
        self._data = artifact.config.data
        self.deep: list[Deep] = []  # predicted images deeper than 8 bits

    @property
    def view(self) -> Any:
        """Transform from an image (H, W, 3) uint8 to the input (3, h, w) uint8 of the model; hashable."""
        raise NotImplementedError

    def predict(self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5) -> list[Any]:
        """Predict a file, a folder, a glob, a web address, a PIL image, an array (H, W, 3) uint8, or a list of these.

        Args:
            images: images to predict; files of a folder and matches of a glob are sorted by name.
            batch_size: number of images per batch.
            top: number of classes in a classification result.

        Returns:
            A Classification or Detections for each image.

        Raises:
            UserError: there are no images, or an image cannot be read (BadImage).
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
        """Like `predict`, one result at a time; an image that cannot be read gives a BadImage instead of a result."""
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
        """Predict decoded images (H, W, 3) uint8 with their names."""
        raise NotImplementedError


class Classifier(Predictor):
    """Image classifier; everything that does not depend on the image is computed once.

    Args:
        model: the trained model.
        artifact: its artifact.
        forward: the model for inference.
        precision: precision of the passes.
    """

    def __init__(
        self, model: Prompted, artifact: Artifact, forward: Forward | None = None, precision: Precision = "fp32"
    ) -> None:
        super().__init__(model, artifact, precision)
        assert isinstance(model, PromptedModel)
        self._forward = forward or inference(model)
        self.transform = evaluation_transform(model, artifact.config.data)

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
        named = replace(self.artifact, classes=tuple(names))
        return Classifier(self.model.with_names(names), named, precision=self.precision)

    @torch.inference_mode()
    def prompted(self, images: Picture | Sequence[Picture]) -> Iterator[tuple[str, np.ndarray]]:
        """Names and images (S, S, 3) uint8 as the backbone sees them: cropped, with the pixel prompt.

        Raises:
            UserError: there are no images, or an image cannot be read (BadImage).
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
        """Predict decoded images (H, W, 3) uint8 with their names."""
        images = torch.stack([self.transform(each, 0) for each in pixels])
        with self._autocast():
            logits = self._forward(images.to(self._device)).float().cpu()
        if not torch.isfinite(logits).all():
            raise UserError(f"{self.artifact.path} predicts scores that are not finite; train it again")
        scores = probabilities(logits, self.artifact.multilabel)
        return [self.result(name, row, top) for name, row in zip(names, scores, strict=True)]

    def result(self, name: str, scores: torch.Tensor, top: int) -> Classification:
        """Convert scores (K,) from 0 to 1 to a result."""
        best = scores.sort(descending=True, stable=True)
        count = min(top, len(self.classes))
        labels = tuple(self.classes[index] for index in best.indices[:count].tolist())
        return Classification(name, labels, best.values[:count].numpy(), self.artifact.multilabel)


@dataclass(frozen=True)
class BoxView:
    """Resize for a detector: the short side to `size` pixels, unless the long side would exceed `longest`."""

    size: int
    longest: int

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """Resize an image (H, W, 3) uint8 to (3, h, w) uint8."""
        height, width = pixels.shape[:2]
        size = size_for(width, height, self.size, self.longest)
        picture = Image.fromarray(pixels)
        return to_tensor(
            np.asarray(picture if size == (width, height) else picture.resize(size, Image.Resampling.BILINEAR))
        )


class BoxPredictor(Predictor):
    """Object detector."""

    def __init__(self, model: Prompted, artifact: Artifact, precision: Precision = "fp32") -> None:
        super().__init__(model, artifact, precision)
        assert isinstance(model, Detector | FrozenDetector)
        self.sizes = sizes(artifact.config, model)  # short side and maximum long side of resized images

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return BoxView(*self.sizes)

    def batch(self, names: list[str], pixels: list[np.ndarray], top: int) -> list[Detections]:
        """Predict decoded images (H, W, 3) uint8 with their names."""
        return self.found(names, [self.view(each) for each in pixels], [each.shape[1::-1] for each in pixels])

    def found(
        self, names: Sequence[str], images: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]]
    ) -> list[Detections]:
        """Predict resized images (3, h, w) uint8, with their original width and height."""
        results = []
        # Memory depends on the largest image of a batch, so batches are small.
        for start in range(0, len(images), 8):
            with self._autocast():
                found = self.model.detect([image.to(self._device) for image in images[start : start + 8]])
            for at, one in enumerate(found, start):
                results.append(self.result(names[at], one, images[at], *sizes[at]))
        return results

    def result(
        self, name: str, found: dict[str, torch.Tensor], image: torch.Tensor, width: int, height: int
    ) -> Detections:
        """Convert boxes in pixels of the resized image to a result."""
        if not torch.isfinite(found["boxes"]).all() or not torch.isfinite(found["scores"]).all():
            raise UserError(f"{self.artifact.path} predicts boxes that are not finite; train it again")
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        edge = torch.tensor([width, height] * 2, dtype=torch.float32)
        boxes = torch.minimum((found["boxes"].float().cpu() * scale).clamp_min(0), edge)
        # A box outside the image has no area after clipping.
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
