"""Detection: model, training objective, and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import NativeHead, RunConfig
from vpt.data.dataloader import Loader, loader_of
from vpt.data.dataset import LabelledData, Record
from vpt.data.detection.collate import BoxMaker
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.evaluation_data import load_boxes_measured
from vpt.data.detection.registry import load_boxes
from vpt.data.detection.transforms import BoxTransform, Target
from vpt.data.evaluation_data import Asked
from vpt.data.worker_processes import default_workers
from vpt.metrics import detection_plots
from vpt.metrics.best_score import best_f1, shown_score
from vpt.metrics.detection import detection_metrics, require_metrics
from vpt.models.base import Prompted
from vpt.models.detection.detector import Detector, build_detector, dynamic_backbone
from vpt.models.detection.frozen_detector import FrozenDetector, build_frozen
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start, wants_images
from vpt.training.checkpoint import Baseline
from vpt.training.context import Setting
from vpt.training.tasks.base import TrainingParts
from vpt.training.tasks.validation_loss import validation_loss
from vpt.utils.atomic_io import write_json
from vpt.utils.distributed import gathered_list, ranks
from vpt.utils.errors import UserError

INIT_IMAGES = 32  # images whose patch tokens a data-driven initialisation uses
Found = dict[str, Tensor]


class Detection:
    """The task of `task=detection`."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set; image headers are read if boxes are relative to the image size."""
        require_metrics()
        return load_boxes(config.data).with_window(config.data.window)

    def load_measured(self, config: RunConfig, asked: Asked) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on."""
        require_metrics()
        data, split = load_boxes_measured(config.data, asked)
        return data.with_window(config.data.window), split

    def backbone(self, config: RunConfig) -> Backbone | None:
        """Load the backbone to which `build` adds a prompt and a head; None for a complete detector, which behaves
        differently in training mode."""
        return None if isinstance(config.head, NativeHead) else dynamic_backbone(config)

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> Prompted:
        """Build the model, on an already loaded backbone or on a new one."""
        if isinstance(config.head, NativeHead):
            return build_frozen(config, classes)
        return build_detector(config, classes, backbone)

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return "map"

    def check(self, model: Prompted, setting: Setting) -> None:
        """Check the augmentation before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist.
        """
        _training_transform(model, setting)

    def begin(self, model: Prompted, setting: Setting) -> Baseline | None:
        """Initialise prompts that are computed from images, as squares of the backbone's own size."""
        config = setting.config
        if not isinstance(model.prompt, TokenPrompts) or not wants_images(config.prompt):
            return None
        assert isinstance(model, Detector)
        side = model.backbone.preprocess.size
        loader = box_loader(setting, BoxTransform(side, side), setting.data.train[:INIT_IMAGES])
        squares: list[Tensor] = []
        targets: list[Target] = []
        for batch in loader.epoch(0):
            targets += batch.labels
            for image in batch.images:
                whole = torch.nn.functional.interpolate(image[None].float(), (side, side), mode="bilinear")
                squares.append(model.normalise(whole[0].round().to(torch.uint8).to(setting.device)))
        start(model.prompt, config.prompt, model.backbone, [torch.stack(squares)], config.train.seed, [targets])
        return None

    def untrained(self, model: Prompted, setting: Setting) -> tuple[Prompted, Setting]:
        """The model itself: nothing was evaluated before training."""
        return model, setting

    def finish(self, model: Prompted, setting: Setting) -> None:
        """Nothing is fitted after training."""

    def is_trainable(self, model: Prompted) -> bool:
        """Whether the model has trainable parameters."""
        return any(True for _ in model.trainable())

    def training_parts(self, model: Prompted, setting: Setting) -> TrainingParts:
        """Create batches, objective and validation of a run."""
        detector = _detector(model)
        data = setting.data
        loader = box_loader(setting, _training_transform(model, setting), data.train, "train", shuffle=True)

        def objective(images: list[Tensor], targets: list[Target]) -> tuple[Tensor, None]:
            return detector.loss(images, targets), None

        def validate() -> dict[str, Any]:
            transform = BoxTransform(*sizes(setting.config, model))
            found = validation_loss(model, setting, box_loader(setting, transform, data.val, "val", distributed=True))
            return {"loss": found, **self.measure(model, setting, data.val, "val")}

        return TrainingParts(loader, objective, validate if data.val else None, loaders=[loader])

    def measure(
        self, model: Prompted, setting: Setting, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> dict[str, Any]:
        """COCO metrics of a trained model, in pixels of the images; with a folder, its boxes are written there."""
        predicted, wanted = predictions(model, setting, records, split, distributed=True)
        measured = detection_metrics(predicted, wanted, setting.data.classes)
        if folder is not None:
            write_json(folder / f"predictions-{split}.json", _rows(records, predicted, setting.data.classes))
        measured["map"] = measured["map"] or 0.0
        measured["best_f1"], measured["best_f1_score"] = best_f1(predicted, wanted)
        return measured

    def trial(self, model: Prompted, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images with one box each, for estimating memory."""
        side = _side(model)
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device) * side
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        target = Target(box, zero, zero.bool(), side, side)
        images = [torch.zeros(3, side, side, dtype=torch.uint8, device=device)] * count
        model.train()
        loss = _detector(model).loss(images, [target] * count)
        model.eval()
        return loss

    def pictures(self, model: Prompted, setting: Setting, measured: dict[str, Any], folder: Path) -> None:
        """Precision-recall curves, and images with predicted and true boxes."""
        split = next((split for split in ("test", "val") if measured.get(split)), None)
        if split is None:  # validation was merged into training, and test is not used
            return
        detection_plots.precision_png(measured[split]["precision"], folder / "precision-recall.png")
        records = [record for record in setting.data.split(split) if isinstance(record, BoxRecord)][:12]
        predicted, _ = predictions(model, setting, records)
        detection_plots.grid_png(
            records,
            predicted,
            setting.data.classes,
            setting.config.data.max_pixels,
            folder / "boxes.png",
            least=shown_score(measured),
        )


def sizes(config: RunConfig, model: Prompted) -> tuple[int, int]:
    """Short side and maximum long side of images, in pixels."""
    head: Any = config.head
    size = head.size or _side(model)
    return size, int(size * head.longest)


def _side(model: Prompted) -> int:
    """Default short side of images: twice the backbone's image size."""
    own = model.backbone.preprocess.size
    return own if isinstance(model, FrozenDetector) else 2 * own


def _training_transform(model: Prompted, setting: Setting) -> BoxTransform:
    return BoxTransform(*sizes(setting.config, model), setting.config.data.augment)


def _detector(model: Prompted) -> Detector | FrozenDetector:
    assert isinstance(model, Detector | FrozenDetector)
    return model


def box_loader(
    setting: Setting,
    transform: BoxTransform,
    records: Sequence[Record],
    split: str = "",
    shuffle: bool = False,
    distributed: bool = False,
) -> Loader:
    """Batches of records with boxes. `distributed` splits whole batches across processes; otherwise every process gets
    all of them."""
    config = setting.config
    if not all(isinstance(record, BoxRecord) for record in records):
        raise UserError(f"{config.data.path} has no boxes; choose task=classification")
    return loader_of(
        records,
        BoxMaker(transform),
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        shuffle=shuffle,
        drop_last=shuffle and setting.drop_last,
        workers=default_workers() if config.data.workers is None else config.data.workers,
        cache=setting.caches.get(split),
        max_pixels=config.data.max_pixels,
        rank=ranks().rank if distributed else 0,
        ranks=ranks().count if distributed else 1,
        whole=True,
        epochs=(config.train.epochs or 1) if shuffle else 1,
    )


def predictions(
    model: Prompted, setting: Setting, records: Sequence[Record], split: str = "", distributed: bool = False
) -> tuple[list[Found], list[Found]]:
    """Predicted and true boxes of records in pixels of the images, on the CPU.

    Args:
        model: a detector.
        setting: context of the run.
        records: records with boxes.
        split: the split that consists of these records; "" for others.
        distributed: split the batches across processes.
    """
    detector = _detector(model)
    loader = box_loader(setting, BoxTransform(*sizes(setting.config, model)), records, split, distributed=distributed)
    predicted: list[Found] = []
    index = [torch.zeros(0, dtype=torch.int64)]
    with setting.console.progress(len(loader), f"evaluating {split}".rstrip()) as bar:
        for batch in loader.epoch(0):
            with setting.autocast():
                found = detector.detect([image.to(setting.device) for image in batch.images])
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


def _rows(records: Sequence[Record], predicted: Sequence[Found], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes of each image, in the format of `vpt predict --format json`."""
    rows = []
    for record, found in zip(records, predicted, strict=True):
        parts = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist())
        boxes = [{"label": classes[label], "score": score, "box_xyxy": box} for box, score, label in parts]
        rows.append({"image": record.name, "boxes": boxes})
    return rows
