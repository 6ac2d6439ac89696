"""Detection: model, training objective, and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import NativeHead, RunConfig
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.detection.collate import BoxMaker
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.evaluation_data import load_boxes_measured
from vpt.data.detection.registry import load_boxes
from vpt.data.detection.transforms import BoxTransform, Target
from vpt.data.evaluation_data import EvaluationRequest
from vpt.heads.detection.divided_batch import DividedBatch
from vpt.metrics import detection_plots
from vpt.metrics.best_score import best_f1, shown_score
from vpt.metrics.detection import DetectionMetrics, Found, detection_metrics, require_metrics
from vpt.metrics.predictions import numbered_groups
from vpt.models.detection.detector import Detector, build_detector, dynamic_backbone
from vpt.models.detection.frozen_detector import FrozenDetector, build_frozen
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.input_size import hint
from vpt.training.tasks.base import Metrics, Score, Task, TrainingParts
from vpt.training.tasks.validation_loss import validation_loss
from vpt.utils.atomic_io import write_json
from vpt.utils.distributed import gathered_list, ranks
from vpt.utils.errors import UserError

INIT_IMAGES = 32  # images whose patch tokens a data-driven initialisation uses
AnyDetector = Detector | FrozenDetector


class Detection(Task[AnyDetector]):
    """The task of `task=detection`."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set; image headers are read if boxes are relative to the image size."""
        require_metrics()
        return load_boxes(config.data).with_window(config.data.window)

    def load_for_evaluation(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on."""
        require_metrics()
        data, split = load_boxes_measured(config.data, request)
        return data.with_window(config.data.window), split

    def backbone(self, config: RunConfig) -> Backbone | None:
        """Load the backbone to which `build` adds a prompt and a head; None for a complete detector, which behaves
        differently in training mode."""
        return None if isinstance(config.head, NativeHead) else dynamic_backbone(config)

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> AnyDetector:
        """Build the model, on an already loaded backbone or on a new one."""
        if isinstance(config.head, NativeHead):
            return build_frozen(config, classes)
        return build_detector(config, classes, backbone)

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return "map"

    def check(self, model: AnyDetector, context: RunContext) -> None:
        """Check the augmentation before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist.
        """
        _training_transform(model, context)

    def initialize(self, model: AnyDetector, context: RunContext) -> Baseline | None:
        """Initialise prompts that are computed from images, as squares of the backbone's own size."""
        config = context.config
        if not isinstance(model.prompt, TokenPrompts) or not config.prompt.needs_images:
            return None
        assert isinstance(model, Detector)
        side = model.backbone.preprocess.size
        loader = box_loader(context, BoxTransform(side, side), context.data.train[:INIT_IMAGES])
        squares: list[Tensor] = []
        targets: list[Target] = []
        for batch in loader.epoch(0):
            targets += batch.labels
            for image in batch.images:
                whole = torch.nn.functional.interpolate(image[None].float(), (side, side), mode="bilinear")
                squares.append(model.normalise(whole[0].round().to(torch.uint8).to(context.device)))
        start(model.prompt, config.prompt, model.backbone, [torch.stack(squares)], config.train.seed, [targets])
        return None

    def image_size(self, model: AnyDetector, context: RunContext) -> str:
        """Short and long side, in pixels."""
        short, long = sizes(context.config, model)
        return f"images of {short} px (short side; long side up to {long} px)"

    def advice(self, model: AnyDetector, context: RunContext) -> str:
        """Larger images, if many boxes are smaller than a patch."""
        tower = model.backbone.tower
        patch = 16 if tower is None else max(tower.patch)
        return hint(context.data.train, *sizes(context.config, model), patch)

    def loader(self, model: AnyDetector, context: RunContext, records: Sequence[Record], training: bool) -> Loader:
        """Batches of records, augmented and shuffled for training."""
        plain = BoxTransform(*sizes(context.config, model))
        return box_loader(context, _training_transform(model, context) if training else plain, records, "", training)

    def examples(
        self, batch: Any, records: Sequence[Record], data: LabelledData, most: int
    ) -> list[tuple[np.ndarray, str]]:
        """Images with their boxes."""
        found = []
        for image, target in list(zip(batch.images, batch.labels, strict=True))[:most]:
            pixels, times = detection_plots.enlarged(image.permute(1, 2, 0).numpy())
            names = [data.classes[label] for label in target.labels.tolist()]
            drawn = detection_plots.draw_boxes(pixels, target.boxes.numpy() * times, target.labels.tolist(), names)
            found.append((drawn, f"{len(names)} box{'' if len(names) == 1 else 'es'}"))
        return found

    def training_parts(self, model: AnyDetector, context: RunContext) -> TrainingParts:
        """Create batches, objective and validation of a run."""
        data = context.data
        transform = _training_transform(model, context)
        loader = box_loader(context, transform, data.train, "train", shuffle=True, distributed=True)
        part, several = DividedBatch(), ranks().count > 1
        if several:
            model.divide(part)

        def objective(images: list[Tensor], targets: list[Target]) -> tuple[Tensor, None]:
            part.images = sum(target.width > 0 for target in targets)  # a blank image has no original
            return model.loss(images, targets), None

        def validate() -> Score:
            # Every process computes all of it: in training mode a detector waits for the others in every batch.
            plain = BoxTransform(*sizes(context.config, model))
            found = validation_loss(model, context, box_loader(context, plain, data.val, "val"), objective)
            measured = self.measure(model, context, data.val, "val")
            return Score(measured["map"] or 0.0, found, {"map50": measured["map50"] or 0.0})

        return TrainingParts(loader, objective, validate if data.val else None, loaders=[loader], collective=several)

    def measure(
        self, model: AnyDetector, context: RunContext, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> DetectionMetrics:
        """COCO metrics of a trained model, in pixels of the images; with a folder, its boxes are written there."""
        # The number of passes depends on the sizes of images, and all processes of a sharded backbone run the same.
        distributed = not context.config.train.shard
        predicted, wanted = predictions(model, context, records, split, distributed=distributed)
        measured = detection_metrics(predicted, wanted, context.data.classes)
        if folder is not None:
            write_json(folder / f"predictions-{split}.json", _rows(records, predicted, context.data.classes))
        measured["best_f1"], measured["best_f1_score"] = best_f1(predicted, wanted)
        return measured

    def trial(self, model: AnyDetector, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images with one box each, for estimating memory."""
        side = _side(model)
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device) * side
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        target = Target(box, zero, zero.bool(), side, side)
        images = [torch.zeros(3, side, side, dtype=torch.uint8, device=device)] * count
        model.train()
        loss = model.loss(images, [target] * count)
        model.eval()
        return loss

    def predictions_picture(
        self, context: RunContext, measured: Mapping[str, Metrics], split: str, places: Sequence[int], folder: Path
    ) -> np.ndarray | None:
        """Images with true and predicted boxes."""
        data = context.data
        predicted = _read_predictions(folder / f"predictions-{split}.json", data.classes, places)
        records = [record for at in places if isinstance(record := data.split(split)[at], BoxRecord)]
        pixels = context.config.data.max_pixels
        return detection_plots.pairs(records, predicted, data.classes, pixels, least=shown_score(measured))

    def plots(self, model: AnyDetector, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """Precision-recall curves."""
        split = next((split for split in ("test", "val") if measured.get(split)), None)
        if split is None:  # validation was merged into training, and test is not used
            return
        detection_plots.precision_png(measured[split]["precision"], folder / "precision-recall.png")


def sizes(config: RunConfig, model: AnyDetector) -> tuple[int, int]:
    """Short side and maximum long side of images, in pixels."""
    head: Any = config.head
    size = head.size or _side(model)
    return size, int(size * head.longest)


def _side(model: AnyDetector) -> int:
    """Default short side of images: twice the backbone's image size."""
    own = model.backbone.preprocess.size
    return own if isinstance(model, FrozenDetector) else 2 * own


def _training_transform(model: AnyDetector, context: RunContext) -> BoxTransform:
    return BoxTransform(*sizes(context.config, model), context.config.data.augment)


def box_loader(
    context: RunContext,
    transform: BoxTransform,
    records: Sequence[Record],
    split: str = "",
    shuffle: bool = False,
    distributed: bool = False,
) -> Loader:
    """Batches of records with boxes. `distributed` splits them across processes, by image for training and by batch for
    evaluation; otherwise every process gets all of them."""
    if not all(isinstance(record, BoxRecord) for record in records):
        raise UserError(f"{context.config.data.path} has no boxes; choose task=classification")
    return context.loader_of(records, BoxMaker(transform), split, shuffle, distributed, whole=not shuffle)


def predictions(
    model: AnyDetector, context: RunContext, records: Sequence[Record], split: str = "", distributed: bool = False
) -> tuple[list[Found], list[Found]]:
    """Predicted and true boxes of records in pixels of the images, on the CPU.

    Args:
        model: a detector.
        context: context of the run.
        records: records with boxes.
        split: the split that consists of these records; "" for others.
        distributed: split the batches across processes.
    """
    loader = box_loader(context, BoxTransform(*sizes(context.config, model)), records, split, distributed=distributed)
    predicted: list[Found] = []
    index = [torch.zeros(0, dtype=torch.int64)]
    with context.console.progress(len(loader), f"evaluating {split}".rstrip()) as bar:
        for batch in loader.epoch(0):
            with context.autocast():
                found = model.detect([image.to(context.device) for image in batch.images])
            predicted += [restored(one, image, target) for one, image, target in zip(found, batch.images, batch.labels)]
            index.append(batch.index)
            bar.advance(1, images=len(batch.images))
    loader.close()
    if distributed:
        predicted = gathered_list(predicted, torch.cat(index))
    wanted = [true_boxes(record) for record in records]
    return predicted, wanted


def true_boxes(record: Record) -> Found:
    """The boxes of a record in pixels of the image, in the form expected by `detection_metrics`."""
    assert isinstance(record, BoxRecord)
    return {
        "boxes": torch.tensor(record.boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(record.labels, dtype=torch.int64),
        "iscrowd": torch.tensor(record.crowds, dtype=torch.int64),
        "area": torch.tensor(record.object_areas(), dtype=torch.float64),
    }


def restored(found: Found, image: Tensor, target: Target) -> Found:
    """Boxes in pixels of the original instead of the resized image."""
    scale = torch.tensor([target.width / image.shape[2], target.height / image.shape[1]] * 2)
    boxes = found["boxes"].float().cpu() * scale
    return {"boxes": boxes, "scores": found["scores"].float().cpu(), "labels": found["labels"].cpu()}


def _read_predictions(file: Path, classes: Sequence[str], places: Sequence[int]) -> list[Found]:
    """Boxes of some images that `measure` wrote; computing them again would need all processes."""
    found, rows = [], json.loads(file.read_text(encoding="utf-8"))
    for place in places:
        boxes = rows[place]["boxes"]
        found.append(
            {
                "boxes": torch.tensor([box["box_xyxy"] for box in boxes]).reshape(-1, 4),
                "scores": torch.tensor([box["score"] for box in boxes]),
                "labels": torch.tensor([classes.index(box["label"]) for box in boxes], dtype=torch.int64),
            }
        )
    return found


def _rows(records: Sequence[Record], predicted: Sequence[Found], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes of each image, in the format of `vpt predict --format json`."""
    rows = []
    groups = numbered_groups(record.group for record in records)
    for record, found, group in zip(records, predicted, groups, strict=True):
        parts = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
        boxes = [{"label": classes[label], "score": score, "box_xyxy": box} for box, score, label in parts]
        rows.append({"image": record.name, "boxes": boxes, **({"group": group} if group else {})})
    return rows
