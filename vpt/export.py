"""A trained classifier as one file for other runtimes: prompts folded in as constants, preprocessing inside.

An extra: pip install 'vpt[export]'.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.ports import LayerPrompt
from vpt.errors import UserError
from vpt.files import write_atomic
from vpt.heads.zeroshot import ZeroShot
from vpt.predict import Classifier, load
from vpt.preprocess import Preprocess

Format = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
LARGEST_BATCH = 1024
CLOSE = 1e-3  # of scores from 0 to 1, between runtimes


@dataclass(frozen=True)
class Exported:
    """A written file: its size, how far its scores are from ours, and the median time of one image."""

    path: Path
    bytes: int
    difference: float
    milliseconds: float


class Folded(nn.Module):
    """Scores (B, classes) from 0 to 1 of uint8 images (B, H, W, 3).

    Args:
        predictor: a loaded classifier; what its prompt does in each layer becomes constants.
        size: height and width of the images; unless it is the model's own square, they are resized and cropped inside.

    Raises:
        UserError: a model whose pass depends on more than one image: test-time tuning.
    """

    def __init__(self, predictor: Classifier, size: tuple[int, int]) -> None:
        super().__init__()
        model = predictor.model
        if model.test_time is not None:
            raise UserError("prompt=tpt tunes anew for every image; it cannot be exported")
        self.model = model.eval()
        self.multilabel = predictor.artifact.multilabel
        self.size = size
        self.side = model.image_size
        self.pre: Preprocess = predictor.artifact.preprocess
        self.squash = predictor.artifact.config.data.resize == "squash"
        self.crop_pct = predictor.artifact.config.data.crop_pct or self.pre.crop_pct
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers: list[LayerPrompt] | None = model.constants()
            self.head: Callable[[Tensor], Tensor] = (
                model.head.ready() if isinstance(model.head, ZeroShot) else model.head
            )

    def forward(self, images: Tensor) -> Tensor:
        """Scores of a batch."""
        pixels = images.permute(0, 3, 1, 2)
        if self.size != (self.side, self.side):
            pixels = self._square(pixels)
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        scores = self.head(features).float()
        return scores.sigmoid() if self.multilabel else scores.softmax(1)

    def _square(self, pixels: Tensor) -> Tensor:
        """Resized and cropped at the centre, as at evaluation, but for the rounding of the resize."""
        height, width = self.size
        large = max(self.side, round(self.side / self.crop_pct))
        if self.squash:
            new = (self.side, self.side)
        else:
            scale = large / min(height, width)
            new = (max(large, round(height * scale)), max(large, round(width * scale)))
        mode = "bilinear" if self.pre.interpolation == "bilinear" else "bicubic"
        wide = nn.functional.interpolate(pixels.float(), size=new, mode=mode, antialias=True)
        top, left = (new[0] - self.side) // 2, (new[1] - self.side) // 2
        square = wide[:, :, top : top + self.side, left : left + self.side]
        return square.round().clamp(0, 255).to(torch.uint8)


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    format: Format = "onnx",
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
) -> Exported:
    """Write a classifier as ONNX or as a torch.export program, and check it by running it.

    Args:
        artifact: artifact file or run folder.
        output: the file to write; default: beside the artifact.
        format: onnx, or torch (.pt2).
        size: height and width of the images it will get, resized and cropped inside; default: the model's own square.
        weights: where the backbone's weight file lies now, if it moved since training.

    Raises:
        UserError: an artifact that finds boxes or tunes at test time, packages that are missing, or a file whose scores
            are not ours.
    """
    predictor = load(artifact, device="cpu", weights=weights, dtype="fp32")
    if not isinstance(predictor, Classifier):
        raise UserError(f"{artifact} finds boxes; only classifiers are exported")
    side = predictor.model.image_size
    folded = Folded(predictor, size or (side, side)).requires_grad_(False).eval()
    stem = predictor.artifact.path.with_suffix("")
    path = Path(output) if output is not None else stem.with_suffix(SUFFIX[format])
    write, run = {"onnx": (_write_onnx, _run_onnx), "torch": (_write_torch, _run_torch)}[format]
    with _quiet():
        write_atomic(path, lambda temporary: write(folded, predictor, temporary))
    forward = run(path)
    difference = _difference(folded, forward)
    if not difference < CLOSE:
        path.unlink()
        raise UserError(f"{path} gave scores that differ from ours by {difference:.2g}; it was removed")
    return Exported(path, path.stat().st_size, difference, _latency(forward, folded.size))


def _example(count: int, size: tuple[int, int]) -> Tensor:
    chance = np.random.default_rng(count)
    return torch.from_numpy(chance.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def _program(folded: Folded) -> Any:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return torch.export.export(folded, (_example(2, folded.size),), dynamic_shapes={"images": {0: batch}})


def _write_torch(folded: Folded, predictor: Classifier, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(_program(folded), file, extra_files={"vpt.json": json.dumps(_described(folded, predictor))})


def _write_onnx(folded: Folded, predictor: Classifier, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'vpt[export]'") from None
    program = torch.onnx.export(
        _program(folded),
        input_names=["images"],
        output_names=["scores"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for key, value in _described(folded, predictor).items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(model, str(path))


def _described(folded: Folded, predictor: Classifier) -> dict[str, Any]:
    return {
        "classes": list(predictor.classes),
        "scores": "sigmoid" if folded.multilabel else "softmax",
        "images": f"uint8 (batch, {folded.size[0]}, {folded.size[1]}, 3), RGB",
        "backbone": predictor.model.backbone.name,
    }


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"checking ONNX needs {error.name}: pip install 'vpt[export]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])


def _run_torch(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(str(path)).module()
    return lambda images: module(images)


@torch.inference_mode()
def _difference(folded: Folded, forward: Callable[[Tensor], Tensor]) -> float:
    """The largest difference of scores, over batches of several sizes."""
    batches = [_example(count, folded.size) for count in (1, 3, 8)]
    return max(float((forward(batch) - folded(batch)).abs().max()) for batch in batches)


def _latency(forward: Callable[[Tensor], Tensor], size: tuple[int, int], rounds: int = 9) -> float:
    image = _example(1, size)
    forward(image)
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        forward(image)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own talk is not for users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
