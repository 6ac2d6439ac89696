"""Predicting with an artifact: `vpt.load(artifact).predict(images)`."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vpt.artifact import Artifact, load_model
from vpt.data.images import BadImage, decode
from vpt.errors import UserError
from vpt.heads.zeroshot import ZeroShot
from vpt.model import PromptedModel
from vpt.prompts.picture import pixels_of
from vpt.results import Classification
from vpt.setting import evaluation_transform
from vpt.training.loop import inference

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2")
Picture = str | Path | np.ndarray | Image.Image


def load(path: str | Path, device: str = "auto", weights: str | Path | None = None) -> Predictor:
    """Load an artifact, given it or its run folder, ready to predict.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        weights: where the backbone's weight file lies now, if it moved since training.

    Raises:
        UserError: a missing or damaged artifact, or a backbone that cannot be had or is another one.
    """
    return Predictor(*load_model(path, device, weights))


class Predictor:
    """A trained model that classifies pictures. What does not depend on the picture is computed once, here."""

    def __init__(self, model: PromptedModel, artifact: Artifact) -> None:
        self.model = model
        self.artifact = artifact
        self.classes = artifact.classes
        self._forward = inference(model)
        self._device = next(model.parameters()).device
        data = artifact.config.data
        self._transform = evaluation_transform(model, data)
        self._max_pixels = data.max_pixels

    def predict(self, images: Picture | Sequence[Picture], batch_size: int = 32, top: int = 5) -> list[Classification]:
        """Classify a file, a folder, a glob, a PIL picture, an array (H, W, 3) uint8, or a list of these.

        Args:
            images: what to classify; files of a folder and matches of a glob come in the order of their names.
            batch_size: pictures at a time.
            top: how many classes each result names.

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
    ) -> Iterator[Classification | BadImage]:
        """Like `predict`, one result at a time; a picture that cannot be read gives its BadImage instead."""
        if batch_size < 1 or top < 1:
            raise UserError(f"batch_size={batch_size} and top={top} must be at least 1")
        pictures = iter(find_images(images))
        while chunk := list(itertools.islice(pictures, batch_size)):
            yield from self._batch(chunk, top)

    def with_classes(self, names: Sequence[str]) -> Predictor:
        """The same model for other class names, where its head reads names.

        Raises:
            UserError: a head with classes of its own, or fewer than two different names.
        """
        if not isinstance(self.model.head, ZeroShot):
            raise UserError(
                f"{self.artifact.path} has a head with classes of its own; only head=zeroshot takes new names"
            )
        if len(set(names)) != len(names) or len(names) < 2:
            raise UserError(f"give two or more different class names, not {', '.join(names) or 'none'}")
        self.model.head.set_names(names)
        return Predictor(self.model, replace(self.artifact, classes=tuple(names)))

    @torch.inference_mode()
    def prompted(self, images: Picture | Sequence[Picture]) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures (S, S, 3) uint8 of what the backbone gets to see: cropped, and under the pixel prompt.

        Raises:
            UserError: nothing there, or a picture that cannot be read (BadImage), by name.
        """
        for name, source in find_images(images):
            square = self._transform(decode(source, self._max_pixels, name), 0)
            seen = self.model.normalise(square[None].to(self._device))
            yield name, pixels_of(seen, self.model.mean / 255, self.model.std / 255)[0]

    @torch.inference_mode()
    def _batch(self, chunk: list[tuple[str, Any]], top: int) -> Iterator[Classification | BadImage]:
        ready: list[torch.Tensor | BadImage] = []
        for name, source in chunk:
            try:
                ready.append(self._transform(decode(source, self._max_pixels, name), 0))
            except BadImage as error:
                ready.append(error)
        tensors = [each for each in ready if isinstance(each, torch.Tensor)]
        scores: Iterator[torch.Tensor] = iter(())
        if tensors:
            logits = self._forward(torch.stack(tensors).to(self._device)).float().cpu()
            if not torch.isfinite(logits).all():
                raise UserError(f"{self.artifact.path} gives scores that are not finite; train it again")
            scores = iter(logits.sigmoid() if self.artifact.multilabel else logits.softmax(1))
        for (name, _), each in zip(chunk, ready, strict=True):
            yield each if isinstance(each, BadImage) else self._result(name, next(scores), top)

    def _result(self, name: str, scores: torch.Tensor, top: int) -> Classification:
        best = scores.sort(descending=True, stable=True)
        count = min(top, len(self.classes))
        labels = tuple(self.classes[index] for index in best.indices[:count].tolist())
        return Classification(name, labels, tuple(best.values[:count].tolist()), self.artifact.multilabel)


def find_images(images: Picture | Iterable[Picture]) -> list[tuple[str, Any]]:
    """Name and source of every picture meant by a path, folder, glob, picture, or a list of them.

    Raises:
        UserError: a path where nothing is, a folder without images, a glob without matches.

    >>> find_images(np.zeros((2, 2, 3), dtype=np.uint8))[0][0]
    'image 1'
    """
    several = list(images) if isinstance(images, list | tuple) else [images]
    found: list[tuple[str, Any]] = []
    for number, each in enumerate(several, 1):
        if isinstance(each, np.ndarray | Image.Image):
            found.append((getattr(each, "filename", "") or f"image {number}", each))
        elif isinstance(each, str | Path):
            found += [(str(path), path) for path in _files(each)]
        else:
            raise UserError(f"cannot predict a {type(each).__name__}; give paths, PIL pictures or uint8 arrays")
    if not found:
        raise UserError("there is nothing to predict; name a file, a folder or a glob")
    return found


def _files(place: str | Path) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"{path} holds no images ({', '.join(SUFFIXES[:4])}, ...)")
        return files
    if path.is_file():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(place), recursive=True))
    if not matches:
        raise UserError(f"{place}: there is no such file, folder or match")
    return [file for match in matches for file in (_files(match) if match.is_dir() else [match])]
