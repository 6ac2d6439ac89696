"""Exported classifier, including resizing, cropping and normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config.data import Window
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.classifier import Classifier
from vpt.inference.predictor import Predictor
from vpt.inference.results import Classification
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


class FoldedModel(nn.Module):
    """Outputs for uint8 images (B, H, W, 3), by a head on pooled features.

    Args:
        predictor: a loaded model; the operations of its prompt become constants.
        size: height and width of the images; None for photos of any size. They are resized and cropped as at
            prediction; only squares of the model's own size, if it is given, are taken as they are.

    Raises:
        UserError: test-time tuning, whose forward pass depends on more than one image.
    """

    def __init__(self, predictor: Predictor, size: Size = None) -> None:
        super().__init__()
        model = predictor.model
        if model.test_time is not None:
            raise UserError("prompt=tpt tunes its context for every image, so it cannot be exported")
        self.model = model.eval()
        self.multilabel = predictor.artifact.multilabel
        self.size = size
        transform = predictor.view
        assert isinstance(transform, EvalTransform)
        self.prepared = size == (transform.size, transform.size)
        self.square: nn.Module = nn.Identity() if self.prepared else Square(transform)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers: list[LayerPrompt] | None = model.constants()
            self.head = model.ready_head()

    def read(self, outputs: Tensor) -> Tensor:
        """What the file gives for outputs (B, K) of the head, in float32."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Results for a batch of images."""
        pixels = self.square(images.permute(0, 3, 1, 2))
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        return self.read(self.head(features).float())


class FoldedClassifier(FoldedModel):
    """Scores (B, classes) from 0 to 1 for uint8 images (B, H, W, 3)."""

    def read(self, outputs: Tensor) -> Tensor:
        """See FoldedModel.read."""
        return probabilities(outputs, self.multilabel)


def export_classifier(predictor: Classifier, path: Path, format: Format, size: Size, check: Check) -> Exported:
    """Export a classifier; see `vpt.interop.export.export.export`."""
    folded = FoldedClassifier(predictor, size).requires_grad_(False).eval()
    batches, samples = batches_to_try(size, check, predictor.artifact.config.data.window)

    def tried(run: Run) -> tuple[float, Agreement | None, float]:
        worst = compare(folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        found = None if folded.prepared else agreement(predictor, run, samples)
        if found is not None and not found.difference < RESIZED:
            raise UserError(f"{path} was not written: scores of photos would differ by {found.difference:.2g}")
        return worst, found, latency(run, batches[3])

    named = {"classes": list(predictor.classes), "scores": "sigmoid" if folded.multilabel else "softmax"}
    program, steps = folded_program(folded, predictor, "scores", named)
    worst, found, taken = written(program, format, path, tried)
    return Exported(path, path.stat().st_size, worst, taken, photos=found, recipe=steps)


def batches_to_try(size: Size, check: Check, window: Window) -> tuple[list[Tensor], list[np.ndarray]]:
    """Batches uint8 (B, H, W, 3) to test a file with: noise, and photos (H, W, 3), which are also returned alone."""
    samples = real_photos(size)
    if check is not None:
        samples += decoded(check, window) if size is None else list(photos(check, size, window).numpy())
    batches = [noise(count, size or (60 + count, 64)) for count in (1, 3, 8)]
    return [*batches, *(torch.from_numpy(pixels)[None] for pixels in samples)], samples


def folded_program(
    folded: FoldedModel, predictor: Predictor, output: str, named: Mapping[str, Any]
) -> tuple[Program, str]:
    """The program to write, and what must be done to a photo before it, in words; "" if nothing.

    Args:
        folded: the module.
        predictor: the loaded model.
        output: name of the output.
        named: metadata of the output.
    """
    height, width = folded.size or ("height", "width")
    metadata = {
        **named,
        "images": f"uint8 (batch, {height}, {width}, 3), RGB",
        "preprocessing": recipe(predictor, inside=not folded.prepared),
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    axes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if folded.size is None:
        axes |= {axis: torch.export.Dim(name, min=1, max=LARGEST_SIDE) for axis, name in ((1, "height"), (2, "width"))}
    program = Program(folded, noise(2, folded.size or (70, 90)), "images", (output,), axes, metadata)
    return program, in_words(recipe(predictor, inside=False)) if folded.prepared else ""


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
