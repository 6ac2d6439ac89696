"""Prediction with an artifact: `vpt.load(artifact).predict(images)`."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import numpy as np
import torch

from vpt.backbones.quantization.linear import Dtype
from vpt.config.tasks import task_entry
from vpt.data.decode import BadImage, decode, examine
from vpt.data.deep_images import Deep
from vpt.inference.image_inputs import Picture, find_images, with_slices
from vpt.inference.load_model import load_model
from vpt.inference.result import Result
from vpt.models.artifact import Artifact
from vpt.models.base import Prompted
from vpt.models.trusted_settings import Named
from vpt.utils.device import autocast, inference_precision, pick_device
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported
from vpt.utils.precision import Precision


def load(
    path: str | Path,
    device: str = "auto",
    weights: str | Path | None = None,
    dtype: Dtype | None = None,
    precision: Precision | None = None,
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
        precision: fp32, bf16 or fp16 (scores accurate to two or three digits), or auto, the fastest that the device
            computes natively; default: as it was trained, if the device computes that natively, else fp32.
        backbone: name of the backbone; needed if it is a repository or a folder, as in
            "open_clip:hf-hub:OWNER/NAME", and was not named by you on this machine before.
        templates: replace the artifact's, as the setting head.templates: a name, a text, a file or several texts.
        overlap: of a detector, the IoU threshold of non-maximum suppression, instead of the artifact's.

    Raises:
        UserError: the artifact is missing or damaged, the backbone is not available or another one, or the device does
            not support the precision.
    """
    named = Named(backbone, weights, templates)
    model, artifact = load_model(path, device, named, dtype, precision=precision, overlap=overlap)
    used = inference_precision(artifact.config.train.precision, pick_device(device), precision)
    return predictor_type(artifact.config.task)(model, artifact, precision=used)


def predictor_type(task: str) -> type[Predictor]:
    """The class of a task's predictors.

    >>> predictor_type("classification").__name__
    'Classifier'
    """
    found: type[Predictor] = imported(task_entry(task).predictor)
    return found


class Predictor(ABC):
    """Base class of predictors: a trained model with its preprocessing.

    A task derives its own, with `view` and `answer`.
    """

    result_type: ClassVar[type[Result]]
    outputs: ClassVar[str] = "scores"  # what the model computes, for messages
    options: ClassVar[frozenset[str]] = frozenset()  # options of `vpt predict` that only some tasks have

    def __init__(self, model: Prompted, artifact: Artifact, precision: Precision = "fp32") -> None:
        self.model: Any = model
        self.artifact = artifact
        self.classes = artifact.classes
        self.precision = precision
        self._device = next(model.parameters()).device
        self._autocast = autocast(precision, self._device)
        self._data = artifact.config.data
        self.deep: list[Deep] = []  # images deeper than 8 bits of the last call of `predict` or `predict_each`

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the rows of its results; default: those of the type of result."""
        return self.result_type.columns

    @property
    @abstractmethod
    def view(self) -> Any:
        """Transform from an image (H, W, 3) uint8 to the input (3, h, w) uint8 of the model; hashable."""

    @abstractmethod
    def answer(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> Sequence[Result]:
        """Predict images transformed by `view`, with their names and original widths and heights.

        Raises:
            UserError: an output that is not finite.
        """

    def answers(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> Iterator[Result]:
        """Like `answer`, one result at a time; tasks with large results compute them when they are needed."""
        yield from self.answer(names, inputs, sizes, top)

    @overload
    def predict(
        self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5, stream: Literal[False] = False
    ) -> list[Any]: ...

    @overload
    def predict(
        self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5, *, stream: Literal[True]
    ) -> Iterator[Any]: ...

    def predict(
        self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5, stream: bool = False
    ) -> list[Any] | Iterator[Any]:
        """Predict a file, a folder, a glob, a web address, a PIL image, an array (H, W, 3) uint8, or a list of these.

        Args:
            images: images to predict; files of a folder and matches of a glob are sorted by name.
            batch_size: number of images per batch.
            top: number of classes in a classification result.
            stream: return an iterator that predicts the next batch when its results are needed, so that a large folder
                takes no more memory than a batch.

        Returns:
            The result of each image, such as a Classification or Detections.

        Raises:
            UserError: there are no images, or an image cannot be read (BadImage).
        """
        found = map(_raise_bad, self.predict_each(images, batch_size, top))
        return found if stream else list(found)

    __call__ = predict

    def predict_each(
        self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5
    ) -> Iterator[Result | BadImage]:
        """Like `predict`, one result at a time; an image that cannot be read gives a BadImage instead of a result."""
        if batch_size < 1 or top < 1:
            raise UserError(f"batch_size={batch_size} and top={top} must be at least 1")
        self.deep = []
        return self._each(find_images(images), batch_size, top)

    def _each(self, found: list[tuple[str, Any]], batch_size: int, top: int) -> Iterator[Result | BadImage]:
        pictures, data = with_slices(_emptied(found), self._data), self._data
        while chunk := list(itertools.islice(pictures, batch_size)):
            inputs: list[torch.Tensor | BadImage] = []
            sizes: list[tuple[int, ...]] = []
            for name, source in chunk:  # of each image only the input of the model is kept
                try:
                    image = examine(source, data.max_pixels, name, window=data.window, channels=data.channels)
                except BadImage as error:
                    inputs.append(error)
                    continue
                inputs.append(self.view(image.pixels))
                sizes.append(image.pixels.shape[1::-1])
                if image.depth is not None:
                    self.deep.append(Deep("", name, image.depth))
                del image
            good = [each for each in inputs if isinstance(each, torch.Tensor)]
            names = [name for (name, _), each in zip(chunk, inputs, strict=True) if isinstance(each, torch.Tensor)]
            results = self.answers(names, good, sizes, top) if good else iter(())
            for (name, source), each in zip(chunk, inputs, strict=True):
                if isinstance(each, BadImage):
                    yield each
                    continue
                result = next(results)
                result.read = partial(decode, source, data.max_pixels, name, window=data.window, channels=data.channels)
                yield result
                del result  # before the next one is computed

    def batch(self, names: Sequence[str], pixels: Sequence[np.ndarray], top: int) -> Sequence[Result]:
        """Predict decoded images (H, W, 3) uint8 with their names."""
        return self.answer(names, [self.view(each) for each in pixels], [each.shape[1::-1] for each in pixels], top)

    def _not_finite(self) -> UserError:
        return UserError(f"{self.artifact.path} predicts {self.outputs} that are not finite; train it again")


def _raise_bad(found: Result | BadImage) -> Result:
    if isinstance(found, BadImage):
        raise found
    return found


def _emptied(found: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The elements of a list, which are removed from it: a downloaded image is kept no longer than needed."""
    found.reverse()
    while found:
        yield found.pop()
