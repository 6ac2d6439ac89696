"""Adding a class to an artifact whose head is not trained: nearest neighbours or class means."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.config import KnnHead, MemoryHead
from vpt.config.storable import refuse_unstorable
from vpt.data.class_names import alike, clean
from vpt.data.datasets.entries import number_of
from vpt.data.decode import BadImage, decode
from vpt.inference.classifier import Classifier
from vpt.inference.image_inputs import Picture, find_images, with_slices
from vpt.inference.predictor import load
from vpt.models.artifact import find_artifact, read_artifact, save_artifact
from vpt.models.trusted_settings import Named, settings_for
from vpt.utils.console import Console
from vpt.utils.errors import UserError


def add_class(
    artifact: str | Path,
    name: str,
    images: Picture | Sequence[Picture],
    output: str | Path | None = None,
    *,
    in_place: bool = False,
    device: str = "auto",
    weights: str | Path | None = None,
    backbone: str | None = None,
    batch_size: int = 32,
    console: Console | None = None,
) -> Path:
    """Add a class to an artifact with head=knn or head=prototype, from images of it and without training.

    The new artifact has no metrics, because those of the old one were measured without the class; see `vpt.evaluate`.
    Images that cannot be read are left out, with a message. With head=knn at most `head.images` new images are stored.

    Args:
        artifact: artifact file or run folder.
        name: of the class.
        images: a folder, a glob, files, PIL images or arrays.
        output: the artifact to write; default: next to the old one, named after the class.
        in_place: replace the old artifact instead.
        device, weights, backbone: as in `vpt.load`.
        batch_size: number of images per batch.
        console: console for messages.

    Returns:
        Path of the new artifact.

    Raises:
        UserError: a head that is trained, a class that exists, no image that can be read, or a file that exists.

    >>> add_class("no/such/run", "wolf", "photos")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: no/such/run: there is no such run folder or artifact
    """
    console = console or Console()
    path = find_artifact(artifact)
    stored = read_artifact(path)
    head = stored.config.head
    if not isinstance(head, MemoryHead):
        raise UserError(
            f"{path} has head={head.kind}, to which no class can be added without training; train a run with "
            "head=prototype or head=knn"
        )
    named = clean(name)
    if named in stored.classes:
        raise UserError(f"{path} has the class '{named}' already; choose another name")
    refuse_unstorable(stored.config, [*stored.classes, named])
    if close := alike(named, stored.classes):
        console.warn(f"warning: '{named}' is a new class{close}")
    if in_place and output is not None:
        raise UserError("give either an output file or in_place, not both")
    target = path if in_place else Path(output) if output is not None else _beside(path, named)
    if not in_place and target.exists():
        raise UserError(f"{target} exists already; choose another file for the new artifact, or remove that one")
    found = find_images(images)
    predictor = load(path, device, weights, backbone=backbone)
    assert isinstance(predictor, Classifier)
    features = torch.cat([*_features(predictor, found, batch_size, console)] or [torch.zeros(0, 1)])
    if not len(features):
        raise UserError(f"none of the {number_of(len(found), 'image')} of the class '{named}' can be read")
    if not torch.isfinite(features).all():
        raise UserError(f"the features of {predictor.model.backbone.name} are not finite; use another precision")
    if isinstance(head, KnnHead) and len(features) > head.images:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(stored.config.train.seed))
        features = features[order[: head.images].sort().values]
    model: Any = predictor.model
    model.head.add_class(features)
    config = settings_for(stored, Named(backbone, weights))  # what the artifact names is not remembered as the user's
    save_artifact(target, model, config, [*stored.classes, named])
    console.say(f"class '{named}' from {number_of(len(features), 'image')}; {len(stored.classes) + 1} classes")
    return target


def _features(
    predictor: Classifier, found: Sequence[tuple[str, Any]], batch_size: int, console: Console
) -> Iterator[Tensor]:
    """Features (B, D) of the images that can be read."""
    data = predictor.artifact.config.data
    pictures = with_slices(found, data)
    while chunk := list(itertools.islice(pictures, max(1, batch_size))):
        rows = []
        for name, source in chunk:
            try:
                rows.append(predictor.view(decode(source, data.max_pixels, name, window=data.window)))
            except BadImage as error:
                console.warn(f"left out: {error}")
        if rows:
            yield predictor.features(rows)


def _beside(path: Path, name: str) -> Path:
    """A file next to an artifact, named after the class."""
    safe = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in name)[:80]
    return path.with_name(f"{path.stem}+{safe}{path.suffix}")
