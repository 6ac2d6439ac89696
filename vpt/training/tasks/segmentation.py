"""Segmentation: model, training objective, and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import RunConfig
from vpt.config.heads_segmentation import LinearMaskHead, MaskHead
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.evaluation_data import EvaluationRequest
from vpt.data.image_cache import threads
from vpt.data.normalization import normalise
from vpt.data.segmentation.collate import MaskMaker
from vpt.data.segmentation.dataset import IGNORE, MaskRecord
from vpt.data.segmentation.evaluation_data import load_masks_measured
from vpt.data.segmentation.registry import load_masks
from vpt.data.segmentation.run_lengths import mask_of, segments
from vpt.data.segmentation.transforms import MaskTransform, mask_transforms
from vpt.metrics.predictions import numbered_groups
from vpt.metrics.segmentation import SegmentationMeter, SplitMetrics, split_metrics
from vpt.models.detection.detector import dynamic_backbone
from vpt.models.segmentation.read_out import read_out
from vpt.models.segmentation.segmenter import Segmenter, build_segmenter
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.losses import class_weights
from vpt.training.segmentation_losses import segmentation_loss
from vpt.training.tasks.base import Metrics, Score, Task, TrainingParts
from vpt.utils import plotting
from vpt.utils.atomic_io import write_json
from vpt.utils.distributed import DividedSum, all_reduce, gathered_list, ranks
from vpt.utils.errors import NotFinite, UserError

INIT_IMAGES = 32  # images whose patch tokens a data-driven initialisation uses


class Segmentation(Task[Segmenter]):
    """The task of `task=segmentation`."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set, with every mask once."""
        return load_masks(config.data).with_window(config.data.window)

    def load_for_evaluation(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on."""
        data, split = load_masks_measured(config.data, request)
        return data.with_window(config.data.window), split

    def backbone(self, config: RunConfig) -> Backbone:
        """Load the backbone, for images of any size."""
        return dynamic_backbone(config)

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Segmenter:
        """Build the model, on an already loaded backbone or on a new one."""
        return build_segmenter(config, classes, backbone)

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return "miou"

    def check(self, model: Segmenter, context: RunContext) -> None:
        """Check image size, augmentation and class weights before anything is computed or written.

        Raises:
            UserError: a size that is no multiple of the patch, no such augmentation, weights that do not fit the
                classes, or sizes of images that several processes cannot normalise together.
        """
        train, plain = transforms(context.config, model)
        setting = context.config.train.class_weights
        if not isinstance(setting, str):
            class_weights(setting, [1] * len(context.data.classes))
        if ranks().count > 1 and isinstance(context.config.head, LinearMaskHead) and train.pipeline is None:
            sizes = {plain.fitted(*one.size) for one in context.data.train if isinstance(one, MaskRecord)}
            if len(sizes) > 1:
                raise UserError(
                    "the batch norm of head=linear_segmentation needs images of one size in several processes; set "
                    "data.augment=light or head.resize=square"
                )

    def initialize(self, model: Segmenter, context: RunContext) -> Baseline | None:
        """Initialise prompts that are computed from images, as squares of the head's size."""
        config = context.config
        if isinstance(model.prompt, TokenPrompts) and config.prompt.needs_images:
            side = transforms(config, model)[1].size
            plain = MaskTransform(side, _patch(model), "square")
            squares: list[Tensor] = []
            masks: list[Tensor] = []
            batch: Any  # a MaskBatch
            for batch in mask_loader(context, plain, context.data.train[:INIT_IMAGES]).epoch(0):
                squares.append(normalise(torch.stack(batch.images).to(context.device), model.mean, model.std))
                masks += batch.labels
            start(model.prompt, config.prompt, model.backbone, squares, config.train.seed, [masks])
        return None

    def image_size(self, model: Segmenter, context: RunContext) -> str:
        """Side of the squares of training, and of the images of evaluation."""
        plain = transforms(context.config, model)[1]
        if plain.resize == "square":
            return f"{plain.size} px"
        return f"images of {plain.size} px (short side; long side up to {plain.longest} px)"

    def loader(self, model: Segmenter, context: RunContext, records: Sequence[Record], training: bool) -> Loader:
        """Batches of records, augmented and shuffled for training."""
        train, plain = transforms(context.config, model)
        return mask_loader(context, train if training else plain, records, "", training)

    def examples(
        self, batch: Any, records: Sequence[Record], data: LabelledData, most: int
    ) -> list[tuple[np.ndarray, str]]:
        """Images with their masks drawn over them."""
        from vpt.metrics.segmentation_plots import overlay

        classes, found = data.classes, []
        for image, mask in list(zip(batch.images, batch.labels, strict=True))[:most]:
            shown = [classes[index] for index in mask.unique().tolist() if index < len(classes)]
            size = (image.shape[2], image.shape[1])  # masks of evaluation have the size of the file
            drawn = np.asarray(Image.fromarray(mask.numpy()).resize(size, Image.Resampling.NEAREST))
            found.append((overlay(image.permute(1, 2, 0).numpy(), drawn, classes), ", ".join(shown)))
        return found

    def training_parts(self, model: Segmenter, context: RunContext) -> TrainingParts:
        """Create batches, objective and validation of a run."""
        config, data = context.config, context.data
        head, (train, _) = mask_head(config), transforms(config, model)
        loader = mask_loader(context, train, data.train, "train", shuffle=True, distributed=True)
        total, several = DividedSum(), ranks().count > 1
        if several:
            model.divide(total)
        weights = pixel_weights(config, data)
        criterion = segmentation_loss(head.loss, weights, head.gamma, total)

        def objective(images: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, None]:
            if several:  # a blank image counts as none
                real = len(images) > 1 or bool(images[0].any() | (masks[0] != IGNORE).any())
                total.images = len(images) if real else 0
            return model.loss(images, masks, criterion), None

        def validate() -> Score:
            found, _ = self._measured(model, context, data.val, "val", rows=False)
            return Score(found["miou"] or 0.0, found["loss"], {"pixel_accuracy": found["pixel_accuracy"] or 0.0})

        return TrainingParts(loader, objective, validate if data.val else None, loaders=[loader], collective=several)

    def measure(
        self, model: Segmenter, context: RunContext, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> SplitMetrics:
        """Metrics of a trained model at the size of the masks; with a folder, predicted masks are written there, as
        run-length encodings with the mean IoU of each image."""
        several = ranks().count > 1
        measured, rows = self._measured(model, context, records, split, rows=several or folder is not None)
        if folder is not None:
            for row, group in zip(rows, numbered_groups(record.group for record in records), strict=True):
                row |= {"group": group} if group else {}
            write_json(folder / f"predictions-{split}.json", rows)
        return measured

    def trial(self, model: Segmenter, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images, for estimating memory."""
        side = model.size
        images = [torch.zeros(3, side, side, dtype=torch.uint8, device=device)] * count
        masks = [torch.zeros(side, side, dtype=torch.uint8, device=device)] * count
        return model.loss(images, masks, segmentation_loss(["cross_entropy"]))

    def predictions_picture(
        self, context: RunContext, measured: Mapping[str, Metrics], split: str, places: Sequence[int], folder: Path
    ) -> np.ndarray | None:
        """Images with true and predicted masks."""
        from vpt.metrics.segmentation_plots import pairs

        data, rows = context.data, json.loads((folder / f"predictions-{split}.json").read_text(encoding="utf-8"))
        records = [record for at in places if isinstance(record := data.split(split)[at], MaskRecord)]
        masks = [mask_of(rows[place]["segments"], data.classes) for place in places]
        return pairs(records, masks, data.classes, context.config.data.max_pixels)

    def plots(self, model: Segmenter, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """The confusion of pixels."""
        split = next((split for split in ("test", "val") if measured.get(split)), None)
        if split is None:  # validation was merged into training, and test is not used
            return
        plotting.confusion_png(measured[split]["confusion"], context.data.classes, folder / "confusion.png")

    def _measured(
        self, model: Segmenter, context: RunContext, records: Sequence[Record], split: str, rows: bool
    ) -> tuple[SplitMetrics, list[dict[str, Any]]]:
        """Metrics of records, whose batches are divided across processes, and with `rows` their predicted masks."""
        classes = context.data.classes
        meter = SegmentationMeter(classes)
        loader = mask_loader(context, transforms(context.config, model)[1], records, split, distributed=True)
        loss, pixels, found, index = 0.0, 0, [], [torch.zeros(0, dtype=torch.int64)]
        with context.console.progress(len(loader), f"evaluating {split}".rstrip()) as bar:
            batch: Any  # a MaskBatch
            for batch in loader.epoch(0):
                there = batch.to(context.device)
                with context.autocast():
                    scores = model.scores(there.images)
                for record, one, mask in zip((records[at] for at in batch.index.tolist()), scores, there.labels):
                    read = read_out(one, (mask.shape[0], mask.shape[1]), mask)
                    assert read.loss is not None
                    loss, pixels = loss + float(read.loss.double().sum()), pixels + int((mask != IGNORE).sum())
                    predicted = read.labels.cpu().numpy()
                    counts = meter.update(predicted, mask.cpu().numpy())
                    found.append(_row(record, predicted, classes, meter.image_miou[-1], counts) if rows else None)
                index.append(batch.index)
                bar.advance(1, images=len(batch.images))
        loader.close()
        loss, pixels_of_all = all_reduce([loss, pixels])
        if not np.isfinite(loss):
            raise NotFinite(f"the scores of {split or 'the images'} are not finite", "")
        places = torch.cat(index)
        found = gathered_list(found, places)
        meters = gathered_list([meter], torch.tensor([ranks().rank]))
        whole = SegmentationMeter(classes)
        for part in meters:
            whole.merge(part)
        return split_metrics(whole.result(), loss / max(1.0, pixels_of_all)), [row for row in found if row is not None]


def transforms(config: RunConfig, model: Segmenter) -> tuple[MaskTransform, MaskTransform]:
    """The transforms for training and for evaluation."""
    return mask_transforms(mask_head(config), model.backbone.preprocess.size, _patch(model), config.data.augment)


def mask_head(config: RunConfig) -> MaskHead:
    """The settings of the head."""
    assert isinstance(config.head, MaskHead)
    return config.head


def mask_loader(
    context: RunContext,
    transform: MaskTransform,
    records: Sequence[Record],
    split: str = "",
    shuffle: bool = False,
    distributed: bool = False,
) -> Loader:
    """Batches of records with masks. `distributed` splits them across processes, by image for training and by batch for
    evaluation; otherwise every process gets all of them."""
    if not all(isinstance(record, MaskRecord) for record in records):
        raise UserError(f"{context.config.data.path} has no masks; choose task=classification")
    return context.loader_of(records, MaskMaker(transform), split, shuffle, distributed, whole=not shuffle)


def pixel_weights(config: RunConfig, data: LabelledData) -> Tensor | None:
    """The weights of the classes in the loss, by `train.class_weights`: balanced means by the pixels of the training
    masks.

    Raises:
        UserError: weights that do not fit the classes, or a mask that cannot be read any more.
    """
    setting, counts = config.train.class_weights, np.zeros(256, np.int64)
    if setting == "balanced":
        records = [record for record in data.train if isinstance(record, MaskRecord)]
        with ThreadPoolExecutor(threads()) as pool:
            for found in pool.map(_pixels, records):
                counts += found
    return class_weights(setting, counts[: len(data.classes)].tolist())


def _patch(model: Segmenter) -> int:
    return model.backbone.require_tower("patch grids").patch[0]


def _pixels(record: MaskRecord) -> np.ndarray:
    return np.bincount(record.read_mask(record.size).reshape(-1), minlength=256)


def _row(
    record: Record, mask: np.ndarray, classes: Sequence[str], miou: float, confusion: np.ndarray
) -> dict[str, Any]:
    """The predicted mask of an image, in the format of `vpt predict --format json`, with its mean IoU, and for each
    class the pixels that are both predicted and true, predicted, and true."""
    height, width = mask.shape
    parts = zip(classes, np.diag(confusion).tolist(), confusion.sum(0).tolist(), confusion.sum(1).tolist())
    return {
        "image": record.name,
        "width": width,
        "height": height,
        "miou": None if np.isnan(miou) else round(miou, 6),
        "segments": segments(mask, classes),
        "counts": {name: each for name, *each in parts if any(each)},
    }
