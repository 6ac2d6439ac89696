"""Exported classifier, including resizing, cropping and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.layer_prompt import LayerPrompt
from vpt.data.dataset import Record
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.classifier import Classifier
from vpt.interop.export.preprocess import Square
from vpt.interop.export.program import Program, Run, latencies
from vpt.interop.export.sample_images import noise, real_photos, windowed
from vpt.interop.export.task_export import Outputs, Size, TaskExport
from vpt.interop.export.written import Agreement, Exported
from vpt.metrics.classification import classification_metrics, main_metric, score_of
from vpt.metrics.probabilities import probabilities
from vpt.utils.errors import UserError

LARGEST_BATCH, LARGEST_SIDE = 1024, 16_384
CLOSE = 1e-3  # tolerance of scores from 0 to 1 between runtimes
RESIZED = 0.03  # the same for photos, of which the file resizes a few pixels by one level otherwise than Pillow


class FoldedClassifier(nn.Module):
    """Scores (B, classes) from 0 to 1 for uint8 images (B, H, W, 3).

    Args:
        predictor: a loaded classifier; the operations of its prompt become constants.
        size: height and width of the images; None for photos of any size. They are resized and cropped as at
            prediction; only squares of the model's own size, if it is given, are taken as they are.

    Raises:
        UserError: test-time tuning, whose forward pass depends on more than one image.
    """

    def __init__(self, predictor: Classifier, size: Size = None) -> None:
        super().__init__()
        model = predictor.model
        if model.test_time is not None:
            raise UserError("prompt=tpt tunes its context for every image, so it cannot be exported")
        self.model = model.eval()
        self.multilabel = predictor.artifact.multilabel
        self.size = size
        assert isinstance(predictor.transform, EvalTransform)
        self.prepared = size == (predictor.transform.size, predictor.transform.size)
        self.square: nn.Module = nn.Identity() if self.prepared else Square(predictor.transform)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers: list[LayerPrompt] | None = model.constants()
            self.head = model.ready_head()

    def forward(self, images: Tensor) -> Tensor:
        """Scores of a batch of images."""
        pixels = self.square(images.permute(0, 3, 1, 2))
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        return probabilities(self.head(features).float(), self.multilabel)


class ClassifierExport(TaskExport):
    """A classifier for export.

    Args:
        predictor: a loaded classifier.
        size: height and width of the images; None: any. Squares of the model's own size are taken as they are.
    """

    unit = "images"

    def __init__(self, predictor: Classifier, size: Size = None) -> None:
        self.predictor: Classifier = predictor
        self.metric = main_metric(predictor.artifact.multilabel)
        self.folded = FoldedClassifier(predictor, size).requires_grad_(False).eval()
        self.size = size
        self.samples = real_photos(size)
        self.program = program_of(self.folded, predictor)

    def verify(self, run: Run, path: Path, samples: Sequence[np.ndarray]) -> Exported:
        """See TaskExport.verify."""
        batches = [noise(count, self.size or (60 + count, 64)) for count in (1, 3, 8)]
        batches += [torch.from_numpy(pixels)[None] for pixels in samples]
        worst = compare(self.folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        found = None if self.folded.prepared else self._compare_photos(run, samples)
        if found is not None and not found.difference < RESIZED:
            raise UserError(f"{path} was not written: scores of photos would differ by {found.difference:.2g}")
        steps = in_words(recipe(self.predictor, inside=False)) if self.folded.prepared else ""
        taken = float(np.median(latencies(run, batches[3])))
        return Exported(path, 0, worst, taken, photos=found, recipe=steps)

    def _compare_photos(self, run: Run, photos: Sequence[np.ndarray]) -> Agreement:
        """Compare the written file with prediction, which resizes with Pillow."""
        mine = [run(self.input(pixels)) for pixels in photos]
        theirs = [self.reference(pixels) for pixels in photos]
        same = sum(self.agreement(one, other)[0] for one, other in zip(mine, theirs, strict=True))
        worst = max(float((one[0] - other[0]).abs().max()) for one, other in zip(mine, theirs, strict=True))
        return Agreement(len(photos), same, worst)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """See TaskExport.fit; as the file's description says, if it neither resizes nor crops."""
        return self.predictor.view(image).permute(1, 2, 0).numpy() if self.folded.prepared else super().fit(image)

    def reference(self, image: np.ndarray) -> Outputs:
        """See TaskExport.reference."""
        seen = torch.from_numpy(image).permute(2, 0, 1) if self.folded.prepared else self.predictor.view(image)
        (found,) = self.predictor.answer(["image"], [seen], [image.shape[1::-1]], len(self.predictor.classes))
        by_name = dict(zip(found.labels, found.scores.tolist(), strict=True))
        return (torch.tensor([[by_name[name] for name in self.predictor.classes]]),)

    def measured(self, found: Outputs, record: Record) -> tuple[np.ndarray, tuple[int, ...]]:
        """See TaskExport.measured: scores (K,) and labels."""
        return found[0][0].double().numpy(), record.labels

    def score(self, measured: Sequence[Any]) -> float:
        """See TaskExport.score."""
        scores, classes = np.stack([each for each, _ in measured]), self.predictor.classes
        logits = np.log(scores.clip(1e-30))
        if several := self.folded.multilabel:
            logits -= np.log((1 - scores).clip(1e-30))
            labels = np.array([[at in mine for at in range(len(classes))] for _, mine in measured], float)
        else:
            labels = np.array([mine[0] for _, mine in measured])
        return score_of(classification_metrics(logits, labels, classes=classes, multilabel=several))

    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """See TaskExport.agreement: whether an image gets the same class or labels."""
        if self.folded.multilabel:
            return int(torch.equal(mine[0] > 0.5, theirs[0] > 0.5)), 1
        return int(mine[0].argmax() == theirs[0].argmax()), 1


def program_of(folded: FoldedClassifier, predictor: Classifier) -> Program:
    """The program to write."""
    height, width = folded.size or ("height", "width")
    metadata = {
        "classes": list(predictor.classes),
        "scores": "sigmoid" if folded.multilabel else "softmax",
        "images": f"uint8 (batch, {height}, {width}, 3), RGB",
        "preprocessing": recipe(predictor, inside=not folded.prepared),
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    axes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if folded.size is None:
        axes |= {axis: torch.export.Dim(name, min=1, max=LARGEST_SIDE) for axis, name in ((1, "height"), (2, "width"))}
    return Program(folded, noise(2, folded.size or (70, 90)), "images", ("scores",), axes, metadata)


def recipe(predictor: Classifier, inside: bool) -> dict[str, Any]:
    """How a photo becomes the input of the network, for the metadata of a file.

    Args:
        predictor: the classifier.
        inside: whether the file resizes and crops photos; if not, the caller must.
    """
    transform, pre = predictor.transform, predictor.model.backbone.preprocess
    assert isinstance(transform, EvalTransform)
    side = transform.size
    every: dict[str, dict[str, Any]] = {
        "crop": {"resize_short_side": math.floor(side / transform.crop_pct), "center_crop": [side, side]},
        "squash": {"resize": [side, side]},
        "pad": {"resize_long_side": side, "pad_around_to": [side, side], "pad_rgb": list(transform.fill)},
    }
    return {
        "resize_and_crop": "inside" if inside else "not inside: do this first",
        **every[transform.resize],
        "interpolation": transform.interpolation,
        "antialias": transform.interpolation != "nearest",
        "normalisation": "inside",
        "mean": list(pre.mean),
        "std": list(pre.std),
        "input_range": [0, 255],
        "layout": "batch, height, width, RGB",
    }


def in_words(steps: dict[str, Any]) -> str:
    """The recipe of photos as a sentence."""
    filtered = f"{steps['interpolation']}, antialiased" if steps["antialias"] else steps["interpolation"]
    if "resize_short_side" in steps:
        side = steps["center_crop"][0]
        return (
            f"resize the short side to {steps['resize_short_side']} pixels ({filtered}), crop the {side}x{side} centre"
        )
    if "resize_long_side" in steps:
        side, fill = steps["resize_long_side"], steps["pad_rgb"]
        return f"resize the long side to {side} pixels ({filtered}), pad to a square with {fill}"
    return f"resize to {steps['resize'][0]}x{steps['resize'][1]} pixels ({filtered}), whatever the aspect ratio"


@torch.inference_mode()
def compare(folded: FoldedClassifier, run: Run, batches: Sequence[Tensor]) -> float:
    """The largest difference of scores between the written file and the original model.

    Args:
        run: the written file.
        batches: uint8, (B, H, W, 3).
    """
    return max(float((run(batch)[0] - folded(batch)).abs().max()) for batch in batches)
