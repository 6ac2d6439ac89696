"""The tasks that `task=...` names. To add one, add an entry to `TASKS`: the code of the task in each subpackage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, WithJsonSchema

from vpt.utils.errors import UserError, nearest
from vpt.utils.plugins import installed, load_installed

GROUP = "vpt.tasks"  # entry points of installed packages
Tree = Mapping[str, Any]  # settings of a run before validation


# Defaults of a head initialised by a probe: docs/defaults.md.
PROBE_LR = {"prompt": 5e-3, "head": 1e-3, "lora": 3e-3, "bias": 1e-2}
PROBE_DECAY = {"head": 0.0}
PROBE_BATCH = 16
PYRAMID_HEADS = ("fcos", "retinanet", "faster_rcnn")


@dataclass(frozen=True)
class TaskEntry:
    """A task. Code is named by "package.module:name" and imported only by a run that needs it.

    Args:
        training: class derived from `vpt.training.tasks.base.Task`.
        skeleton: function of settings, backbone and class names to prompt and head on the meta device, by which the
            tensors of an artifact are checked.
        predictor: class derived from `vpt.inference.predictor.Predictor`.
        metrics: names of the main metrics; the first one that was measured ranks models.
        defaults: fills in the settings that are left open.
        exporter: class derived from `vpt.interop.export.task_export.TaskExport`; "": the task is not exported.
        report: class derived from `vpt.report.tasks.TaskReport`; default: only sections that every task has.
        folds: function of the prediction files of folds, main metric, settings and file to write, that pools the
            predictions and returns their metrics; "": of boxes or masks.
        percent: whether main metrics are shown in percent.
    """

    training: str
    skeleton: str
    predictor: str
    metrics: tuple[str, ...]
    defaults: Callable[[Tree], Tree] = lambda tree: tree
    exporter: str = ""
    report: str = "vpt.report.tasks:TaskReport"
    folds: str = ""
    percent: bool = True


def with_head(tree: Tree) -> Tree:
    """Fill in the defaults of classification, which depend on the head.

    >>> with_head({"head": "knn"})["prompt"], with_head({"head": "ordinal"})["data"]
    ('none', {'classes': 'ordered'})
    """
    head = _section(tree, "head", "linear")
    kind = None if head is None else head["kind"]
    if kind in ("knn", "prototype", "tda"):
        return {"prompt": "none", **tree}
    if kind == "ordinal":
        data = tree.get("data", {})
        data = {"path": data} if isinstance(data, str) else data
        data = {"classes": "ordered", **data} if isinstance(data, Mapping) else data
        train = tree.get("train", {})
        train = {"loss": "coral", **train} if isinstance(train, Mapping) else train
        return with_probe({**tree, "data": data, "train": train}, "ordinal")
    return with_probe(tree)


def with_numbers(tree: Tree) -> Tree:
    """Fill in the defaults of regression: the head, and the recipe of a head that is initialised by a probe.

    >>> with_numbers({})["head"], with_numbers({"head": {"hidden": [8]}})["head"]
    ({'kind': 'regression', 'init': 'probe'}, {'hidden': [8], 'kind': 'regression'})
    """
    head = tree.get("head", {})
    if isinstance(head, Mapping) and "kind" not in head:
        tree = {**tree, "head": {**head, "kind": "regression"}}
    return tree if isinstance(head, Mapping) and head.get("hidden") else with_probe(tree, "regression")


def with_probe(tree: Mapping[str, Any], kind: str = "linear") -> Mapping[str, Any]:
    """Fill in the default recipe in the settings of a run, where they request it or leave it open.

    The recipe is for a linear head with AdamW and any prompt but a pixel prompt. Given settings are kept.

    >>> with_probe({"head": "linear", "train": {"batch_size": 8}})["train"]["batch_size"]
    8
    >>> with_probe({"head": {"kind": "mlp"}})
    {'head': {'kind': 'mlp'}}
    """
    head, train = _section(tree, "head", kind), _section(tree, "train", None)
    prompt = _section(tree, "prompt", "deep")
    if head is None or train is None or prompt is None:
        return tree
    optimizer = _section(train, "optimizer", "adamw")
    if optimizer is None or optimizer["kind"] != "adamw" or head["kind"] != kind or prompt["kind"] == "pixel":
        return tree
    if head.setdefault("init", "probe") != "probe":
        return tree
    for name, wanted in (("lr", PROBE_LR), ("weight_decay", PROBE_DECAY)):
        given = optimizer.get(name, {})
        if isinstance(given, Mapping):
            optimizer[name] = {**wanted, **given}
    accumulate = train.get("accumulate", 1)
    if isinstance(accumulate, int) and PROBE_BATCH % max(1, accumulate) == 0:
        train.setdefault("batch_size", PROBE_BATCH)
    return {**tree, "head": head, "train": {**train, "optimizer": optimizer}}


def with_scenes(tree: Tree) -> Tree:
    """Fill in the defaults of detection: head, embedded data set, batch size, learning rate of the head, and no prompt
    with a head that learns much by itself.

    >>> with_scenes({"data": "photos"})["head"], with_scenes({})["data"]
    ({'kind': 'fcos'}, 'scenes')
    >>> with_scenes({})["prompt"], with_scenes({"prompt": {"tokens": 5}})["prompt"]
    ('none', {'tokens': 5})
    """
    head = _section(tree, "head", "fcos")
    learns = head is not None and head["kind"] in PYRAMID_HEADS
    return _with_scenes({"prompt": "none", **tree} if learns else tree, "fcos", 5e-4)


def with_mask_scenes(tree: Tree) -> Tree:
    """Fill in the defaults of segmentation, as `with_scenes` does.

    >>> with_mask_scenes({})["head"]
    {'kind': 'fpn_segmentation'}
    """
    return _with_scenes(tree, "fpn_segmentation", 4e-3)


def _with_scenes(tree: Tree, head: str, rate: float) -> Tree:
    filled = {"data": "scenes", "head": {}, "train": {}, **tree}
    if isinstance(filled["head"], Mapping):
        filled["head"] = {"kind": head, **filled["head"]}
    if isinstance(filled["data"], Mapping):
        filled["data"] = {"path": "scenes", **filled["data"]}
    if isinstance(filled["train"], Mapping):
        training = {"batch_size": 8, "optimizer": {}, **filled["train"]}
        given = training["optimizer"]
        if isinstance(given, Mapping) and given.get("kind", "adamw") == "adamw":
            rates = given.get("lr", {})
            rates = {"head": rate, **rates} if isinstance(rates, Mapping) else rates
            training["optimizer"] = {**given, "lr": rates}
        filled["train"] = training
    return filled


def _section(tree: Mapping[str, Any], name: str, kind: str | None) -> dict[str, Any] | None:
    """A copy of a section with its kind; None if it is not a mapping, which is refused later."""
    found = tree.get(name, {})
    if isinstance(found, BaseModel):
        found = found.model_dump()
    if isinstance(found, str) and kind is not None:
        found = {"kind": found}
    if not isinstance(found, Mapping):
        return None
    return {"kind": kind, **found} if kind is not None else dict(found)


TASKS: dict[str, TaskEntry] = {
    "classification": TaskEntry(
        training="vpt.training.tasks.classification:Classification",
        skeleton="vpt.models.classifier:classifier_skeleton",
        predictor="vpt.inference.classifier:Classifier",
        metrics=("accuracy", "map"),
        defaults=with_head,
        exporter="vpt.interop.export.classifier:ClassifierExport",
        report="vpt.report.classification:ClassificationReport",
        folds="vpt.experiments.folds:pool_answers",
    ),
    "detection": TaskEntry(
        training="vpt.training.tasks.detection:Detection",
        skeleton="vpt.models.detection.detector:detection_skeleton",
        predictor="vpt.inference.detector:BoxPredictor",
        metrics=("map",),
        defaults=with_scenes,
        exporter="vpt.interop.export.detector:DetectorExport",
        report="vpt.report.detection_report:DetectionReport",
    ),
    "regression": TaskEntry(
        training="vpt.training.tasks.regression:Regression",
        skeleton="vpt.models.classifier:classifier_skeleton",
        predictor="vpt.inference.regression:NumberPredictor",
        metrics=("r2",),
        defaults=with_numbers,
        exporter="vpt.interop.export.regression:NumberExport",
        report="vpt.report.regression:RegressionReport",
        folds="vpt.experiments.folds:pool_numbers",
        percent=False,
    ),
    "segmentation": TaskEntry(
        training="vpt.training.tasks.segmentation:Segmentation",
        skeleton="vpt.models.segmentation.segmenter:segmentation_skeleton",
        predictor="vpt.inference.segmenter:MaskPredictor",
        metrics=("miou",),
        defaults=with_mask_scenes,
        exporter="vpt.interop.export.segmenter:SegmenterExport",
        report="vpt.report.segmentation_report:SegmentationReport",
    ),
}


def find_task(name: str) -> TaskEntry | None:
    """A task of this package, or of an installed one that offers a TaskEntry as an entry point of `GROUP`.

    Raises:
        UserError: the package's entry cannot be loaded.
    """
    if name in TASKS:
        return TASKS[name]
    point = installed(GROUP).get(name)
    found = None if point is None else load_installed(point)
    if found is not None and not isinstance(found, TaskEntry):
        raise UserError(f"'{name}' of {GROUP} is not a vpt.config.tasks.TaskEntry; correct or uninstall its package")
    return found


def task_entry(name: str) -> TaskEntry:
    """The entry of a task that exists.

    >>> task_entry("detection").metrics
    ('map',)
    """
    found = find_task(name)
    if found is None:  # the name is not repeated: it may come from an artifact
        known = [*TASKS, *installed(GROUP)]
        raise ValueError(f"input should be one of {', '.join(known)}{nearest(name, known)}")
    return found


def main_metrics() -> list[str]:
    """Main metrics of all tasks, including those of installed packages."""
    entries = map(task_entry, [*TASKS, *installed(GROUP)])
    return list(dict.fromkeys(name for entry in entries for name in entry.metrics))


def in_percent(metric: str) -> bool:
    """Whether a main metric is shown in percent.

    >>> in_percent("accuracy"), in_percent("r2")
    (True, False)
    """
    entries = map(task_entry, [*TASKS, *installed(GROUP)])
    return next((entry.percent for entry in entries if metric in entry.metrics), True)


def ranking(measured: Mapping[str, Any]) -> str:
    """The main metric among those measured, of any task.

    >>> ranking({"loss": 0.1, "accuracy": 0.9})
    'accuracy'
    """
    names = main_metrics()
    return next((name for name in names if name in measured), names[0])


def _known(name: str) -> str:
    task_entry(name)
    return name


TaskName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"enum": list(TASKS), "title": "Task", "type": "string"})
]
