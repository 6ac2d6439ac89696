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
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.classification import Classification
from vpt.inference.classifier import Classifier
from vpt.interop.export.onnx import Format, Program, Run, latency
from vpt.interop.export.preprocess import Square
from vpt.interop.export.sample_images import decoded, noise, photos, real_photos, windowed
from vpt.interop.export.written import Agreement, Check, Exported, written
from vpt.metrics.probabilities import probabilities
from vpt.utils.errors import UserError

LARGEST_BATCH, LARGEST_SIDE = 1024, 16_384
CLOSE = 1e-3  # tolerance of scores from 0 to 1 between runtimes
RESIZED = 0.03  # the same for photos, of which the file resizes a few pixels by one level otherwise than Pillow
Size = tuple[int, int] | None


class FoldedClassifier(nn.Module):
    """Scores (B, classes) from 0 to 1 for uint8 images (B, H, W, 3).

    If the predictor has them, the score (B,) of none of the classes, above 0.5 for unknown images, and the decision
    (B, classes) int8 by thresholds follow: 1 for a predicted class, -1 for one that is unsure, else 0.

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
        self.decision = predictor.decision
        self.outputs = ("scores", *(("unknown",) if model.unknown else ()), *(("decision",) if self.decision else ()))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of a batch of images, named by `outputs`; a tuple if they are several."""
        pixels = self.square(images.permute(0, 3, 1, 2))
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        logits = self.head(features).float()
        scores = probabilities(logits, self.multilabel)
        found = [scores]
        if self.model.unknown is not None:
            found.append(self.model.unknown(features, logits))
        if self.decision is not None:
            decided = self.decision.decide_all(scores)
            found.append(decided if len(found) == 1 else decided * (found[1] <= 0.5)[:, None])
        return scores if len(found) == 1 else tuple(found)


def export_classifier(predictor: Classifier, path: Path, format: Format, size: Size, check: Check) -> Exported:
    """Export a classifier; see `vpt.interop.export.export.export`."""
    folded = FoldedClassifier(predictor, size).requires_grad_(False).eval()
    window, samples = predictor.artifact.config.data.window, real_photos(size)
    if check is not None:
        samples += decoded(check, window) if size is None else list(photos(check, size, window).numpy())
    batches = [noise(count, size or (60 + count, 64)) for count in (1, 3, 8)]
    batches += [torch.from_numpy(pixels)[None] for pixels in samples]

    def tried(run: Run) -> tuple[float, Agreement | None, float]:
        worst = compare(folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        found = None if folded.prepared else agreement(predictor, run, samples)
        if found is not None and not found.difference < RESIZED:
            raise UserError(f"{path} was not written: scores of photos would differ by {found.difference:.2g}")
        return worst, found, latency(run, batches[3])

    worst, found, taken = written(program_of(folded, predictor), format, path, tried)
    steps = in_words(recipe(predictor, inside=False)) if folded.prepared else ""
    return Exported(path, path.stat().st_size, worst, taken, photos=found, recipe=steps)


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
        **answers(predictor),
    }
    axes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if folded.size is None:
        axes |= {axis: torch.export.Dim(name, min=1, max=LARGEST_SIDE) for axis, name in ((1, "height"), (2, "width"))}
    return Program(folded, noise(2, folded.size or (70, 90)), "images", folded.outputs, axes, metadata)


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
    worst = 0.0
    for batch in batches:
        found = folded(batch)
        mine = found if isinstance(found, tuple) else (found,)
        for name, one, other in zip(folded.outputs, mine, run(batch), strict=True):
            if name != "decision":  # a score that differs in its last digit may be on the other side of a threshold
                worst = max(worst, float((one - other).abs().max()))
    return worst


@torch.inference_mode()
def agreement(predictor: Classifier, run: Run, photos: Sequence[np.ndarray]) -> Agreement:
    """Compare the written file with prediction, which resizes with Pillow.

    Args:
        predictor: the classifier.
        run: the written file.
        photos: uint8, (H, W, 3).
    """
    same, worst = 0, 0.0
    for number, pixels in enumerate(photos):
        theirs = run(torch.from_numpy(pixels)[None])[0][0].numpy()
        (found,) = predictor.batch([f"photo {number}"], [pixels], len(predictor.classes))
        assert isinstance(found, Classification)
        by_name = dict(zip(found.labels, found.scores.tolist(), strict=True))
        mine = np.array([by_name[name] for name in predictor.classes])
        same += int(theirs.argmax() == mine.argmax())
        worst = max(worst, float(np.abs(theirs - mine).max()))
    return Agreement(len(photos), same, worst)
