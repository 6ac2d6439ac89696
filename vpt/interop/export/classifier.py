"""Exported classifiers, and what is common to all models with a head on pooled features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.layer_prompt import LayerPrompt
from vpt.data.dataset import Record
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.classifier import Classifier
from vpt.inference.predictor import Predictor
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


class FoldedModel(nn.Module):
    """Outputs for uint8 images (B, H, W, 3), or of `data.channels` channels, by a head on pooled features.

    Args:
        predictor: a loaded model; the operations of its prompt become constants.
        size: height and width of the images; None for photos of any size. They are resized and cropped as at
            prediction; only squares of the model's own size, if it is given, are taken as they are.
        outputs: names of the outputs.

    Raises:
        UserError: test-time tuning, whose forward pass depends on more than one image.
    """

    outputs: tuple[str, ...]

    def __init__(self, predictor: Predictor, size: Size = None) -> None:
        super().__init__()
        model = predictor.model
        if model.test_time is not None:
            raise UserError("prompt=tpt tunes its context for every image, so it cannot be exported")
        if predictor.artifact.config.head.in_order:
            raise UserError("head=tda has scores that depend on the images before, so it cannot be exported")
        self.model = model.eval()
        self.size = size
        transform = predictor.view
        assert isinstance(transform, EvalTransform)
        self.prepared = size == (transform.size, transform.size)
        self.square: nn.Module = nn.Identity() if self.prepared else Square(transform)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers: list[LayerPrompt] | None = model.constants()
            self.head = model.ready_head()

    def read(self, features: Tensor, outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the file returns for features (B, D) and outputs (B, K) of the head, in float32."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of a batch of images, named by `outputs`; a tuple if they are several."""
        pixels = self.square(images.permute(0, 3, 1, 2))
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        return self.read(features, self.head(features).float())


class FoldedClassifier(FoldedModel):
    """Scores (B, classes) from 0 to 1 for images.

    If the predictor has them, the score (B,) of none of the classes, above 0.5 for unknown images, and the decision
    (B, classes) int8 by thresholds follow: 1 for a predicted class, -1 for one that is unsure, else 0.
    """

    def __init__(self, predictor: Classifier, size: Size = None) -> None:
        super().__init__(predictor, size)
        self.multilabel, self.decision = predictor.artifact.multilabel, predictor.decision
        unknown = ("unknown",) if predictor.model.unknown else ()
        self.outputs = ("scores", *unknown, *(("decision",) if self.decision else ()))

    def read(self, features: Tensor, outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See FoldedModel.read."""
        scores = probabilities(outputs, self.multilabel)
        found = [scores]
        if self.model.unknown is not None:
            found.append(self.model.unknown(features, outputs))
        if self.decision is not None:
            decided = self.decision.decide_all(scores)
            found.append(decided if len(found) == 1 else decided * (found[1] <= 0.5)[:, None])
        return scores if len(found) == 1 else tuple(found)


class PooledExport(TaskExport):
    """A model with a head on pooled features, for export.

    Args:
        predictor: a loaded model.
        folded: the module to write.
        scale: of the outputs; differences are judged relative to it.
        named: metadata of the outputs.
    """

    unit = "images"

    def __init__(self, predictor: Predictor, folded: FoldedModel, scale: float, named: Mapping[str, Any]) -> None:
        self.predictor: Predictor = predictor
        self.folded = folded.requires_grad_(False).eval()
        self.size, self.scale = folded.size, scale
        self.samples = real_photos(self.size, predictor.model.image_channels)
        self.program = program_of(self.folded, predictor, named)

    def verify(self, run: Run, path: Path, samples: Sequence[np.ndarray]) -> Exported:
        """See TaskExport.verify."""
        channels = self.predictor.model.image_channels
        batches = [noise(count, self.size or (60 + count, 64), channels) for count in (1, 3, 8)]
        batches += [torch.from_numpy(pixels)[None] for pixels in samples]
        worst = compare(self.folded, run, batches)
        name = self.folded.outputs[0]
        if not worst < CLOSE * self.scale:
            raise UserError(f"{path} was not written, because its {name} would differ by {worst:.2g}")
        found = None if self.folded.prepared else self._compare_photos(run, samples)
        if found is not None and not found.difference < RESIZED * self.scale:
            raise UserError(f"{path} was not written: {name} of photos would differ by {found.difference:.2g}")
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
        if not self.folded.prepared:
            return super().fit(image)
        fitted: np.ndarray = self.predictor.view(image).permute(1, 2, 0).numpy()
        return fitted

    def answered(self, image: np.ndarray) -> Any:
        """The result of prediction for a fitted image."""
        seen = torch.from_numpy(image).permute(2, 0, 1) if self.folded.prepared else self.predictor.view(image)
        (found,) = self.predictor.answer(["image"], [seen], [image.shape[1::-1]], len(self.predictor.classes))
        return found


class ClassifierExport(PooledExport):
    """A classifier for export.

    Args:
        predictor: a loaded classifier.
        size: height and width of the images; None: any. Squares of the model's own size are taken as they are.
    """

    def __init__(self, predictor: Classifier, size: Size = None) -> None:
        self.metric, self.multilabel = main_metric(predictor.artifact.multilabel), predictor.artifact.multilabel
        named = {"classes": list(predictor.classes), "scores": "sigmoid" if self.multilabel else "softmax"}
        super().__init__(predictor, FoldedClassifier(predictor, size), 1.0, {**named, **answers(predictor)})

    def reference(self, image: np.ndarray) -> Outputs:
        """See TaskExport.reference."""
        found = self.answered(image)
        by_name = dict(zip(found.labels, found.scores.tolist(), strict=True))
        return (torch.tensor([[by_name[name] for name in self.predictor.classes]]),)

    def measured(self, found: Outputs, record: Record) -> tuple[np.ndarray, tuple[int, ...]]:
        """See TaskExport.measured: scores (K,) and labels."""
        return found[0][0].double().numpy(), record.labels

    def score(self, measured: Sequence[Any]) -> float:
        """See TaskExport.score."""
        scores, classes = np.stack([each for each, _ in measured]), self.predictor.classes
        logits = np.log(scores.clip(1e-30))
        if several := self.multilabel:
            logits -= np.log((1 - scores).clip(1e-30))
            labels = np.array([[at in mine for at in range(len(classes))] for _, mine in measured], float)
        else:
            labels = np.array([mine[0] for _, mine in measured])
        return score_of(classification_metrics(logits, labels, classes=classes, multilabel=several))

    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """See TaskExport.agreement: whether an image gets the same class or labels."""
        if self.multilabel:
            return int(torch.equal(mine[0] > 0.5, theirs[0] > 0.5)), 1
        return int(mine[0].argmax() == theirs[0].argmax()), 1


def program_of(folded: FoldedModel, predictor: Predictor, named: Mapping[str, Any]) -> Program:
    """The program to write, with metadata of its outputs."""
    (height, width), channels = folded.size or ("height", "width"), predictor.model.image_channels
    metadata = {
        **named,
        "images": f"uint8 (batch, {height}, {width}, {channels})" + (", RGB" if channels == 3 else ""),
        "preprocessing": recipe(predictor, inside=not folded.prepared),
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    axes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if folded.size is None:
        axes |= {axis: torch.export.Dim(name, min=1, max=LARGEST_SIDE) for axis, name in ((1, "height"), (2, "width"))}
    return Program(folded, noise(2, folded.size or (70, 90), channels), "images", folded.outputs, axes, metadata)


def answers(predictor: Classifier) -> dict[str, Any]:
    """How scores become an answer, for the metadata of a file; empty if by the most confident class."""
    found: dict[str, Any] = {}
    if (decision := predictor.decision) is not None:
        at = range(len(predictor.classes)) if decision.positive is None else [decision.positive]
        found["decision"] = {
            "thresholds": dict(zip((predictor.classes[k] for k in at), decision.thresholds, strict=True)),
            "unsure": decision.unsure,
            "output": "decision: int8 (batch, classes), 1 predicted, -1 unsure, 0 else",
        }
    if predictor.model.unknown is not None:
        found["unknown"] = {"threshold": 0.5, "output": "unknown: float32 (batch), above 0.5 none of the classes"}
    return found


def recipe(predictor: Predictor, inside: bool) -> dict[str, Any]:
    """How a photo becomes the input of the network, for the metadata of a file.

    Args:
        predictor: the loaded model.
        inside: whether the file resizes and crops photos; if not, the caller must.
    """
    transform, pre = predictor.view, predictor.model.backbone.preprocess
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
        "layout": "batch, height, width, " + ("RGB" if transform.channels == 3 else "channels"),
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
def compare(folded: FoldedModel, run: Run, batches: Sequence[Tensor]) -> float:
    """The largest difference of scores between the written file and the original model.

    Args:
        run: the written file.
        batches: uint8, (B, H, W, 3).
    """
    worst = 0.0
    for batch in batches:
        found = folded(batch)
        mine = found if isinstance(found, tuple) else (found,)
        for name, one, other in zip(folded.outputs, mine, run(batch), strict=True):
            if name != "decision":  # a score that differs in its last digit may be on the other side of a threshold
                worst = max(worst, float((one - other).abs().max()))
    return worst
