"""`vpt data`: check, view and convert data sets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.cli.parser import USAGE, Parser, file_and_overrides, is_path, show

if TYPE_CHECKING:
    from vpt.config import RunConfig
    from vpt.data.dataset import LabelledData
    from vpt.data.detection.dataset import BoxFound


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "data",
        help="check or view a data set, or convert boxes to another format",
        description="Check or view a data set, or convert boxes to another format.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=Parser, required=True)
    check = actions.add_parser("check", help="decode every image and list all problems")
    check.add_argument("words", nargs="+", metavar="PATH | CONFIG.yaml | key=value", help="the data set, and settings")
    check.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="where to draw some images with their labels, boxes or masks"
    )
    check.set_defaults(run=_check)
    view = actions.add_parser(
        "view",
        help="draw images as training gets them, and the labels",
        description="Draw what `vpt train` with the same settings draws at its start: its first images after "
        "augmentation (train_batch.jpg) and validation images as the model gets them (val_batch.jpg), with labels, "
        "boxes or masks, and the images of each class (labels.jpg).",
    )
    view.add_argument("words", nargs="+", metavar="PATH | CONFIG.yaml | key=value", help="the data set, and settings")
    view.add_argument("--output", type=Path, metavar="FOLDER", help="where to write the pictures (default: a cache)")
    view.set_defaults(run=_view)
    convert = actions.add_parser("convert", help="convert boxes to COCO, Pascal VOC or YOLO")
    convert.add_argument(
        "words", nargs="+", metavar="PATH | CONFIG.yaml | key=value", help="the data set, and settings"
    )
    convert.add_argument("--to", required=True, choices=["coco", "voc", "yolo"], help="target format")
    convert.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to create")
    convert.set_defaults(run=_convert)


def _config(words: Sequence[str], task: str | None = None) -> RunConfig:
    from vpt.config import load_config, word

    first, *rest = words
    is_data = (is_path(first) or Path(first).is_dir()) and not _is_config(first)
    words = [word("data.path", first), *rest] if is_data else words
    if task is not None:
        words = [*words, f"task={task}"]
    return load_config(*file_and_overrides(words))


def _is_config(path: str) -> bool:
    """Whether the first argument is a config file; YOLO's data.yaml is a data set."""
    from vpt.config import read_yaml

    return path.endswith((".yaml", ".yml")) and "names" not in read_yaml(path)


def _check(options: argparse.Namespace) -> int:
    config = _config(options.words)
    from vpt.data.data_module import resolved
    from vpt.data.deep_images import explained
    from vpt.data.validation import apply, check

    data, sources = _read(config)
    report = check(data, config.data.max_pixels)
    show(f"{config.data.path}: {data.summary()}")
    if (counted := _counted(config)) is not None:
        show(data.account(*counted))
    for note in [*data.notes, *explained(resolved(config.data.window, report), report.deep)]:
        show(note)
    bad = {(one.split, one.name) for one in report.bad}
    if sources:
        from vpt.data.detection.inventory import report as report_boxes

        show(report_boxes(data, sources, bad))
    else:
        from vpt.data.class_counts import class_lines

        show("\n".join(class_lines(data, bad)))
    show(report.text())
    _preview(config, data.with_window(resolved(config.data.window, report)), options.preview)
    if report.bad and config.data.on_bad == "skip":
        good = apply(data, report, config.data.on_bad)
        show(f"with data.on_bad=skip these are left out, leaving: {good.summary()}")
    return USAGE if report.bad else 0


def _preview(config: RunConfig, data: LabelledData, file: Path | None) -> None:
    """Draw some images. Without a given file it is in the cache, so that no check adds a file to the data."""
    from vpt.report.data_preview import preview_png
    from vpt.utils.errors import WriteError

    try:
        drawn = preview_png(data, config.data.max_pixels, file or Path(f"{_in_cache(config)}.png"))
    except WriteError as error:
        if file is not None:
            raise
        show(f"no preview is drawn: {error}, or choose its place with --preview FILE.png")
        return
    if drawn is not None:
        what = {"detection": "boxes", "segmentation": "masks", "regression": "numbers"}.get(config.task, "labels")
        show(f"preview of images with their {what}: {drawn}")


def _in_cache(config: RunConfig) -> Path:
    """Where pictures of a data set are by default, so that nothing is added to the data."""
    from vpt.training.run_folder import data_name
    from vpt.utils.cache_dir import cache_dir

    name = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in data_name(config.data.path))
    return cache_dir() / "previews" / name


def _view(options: argparse.Namespace) -> int:
    no_trial = {"train.batch_size": 8, "train.accumulate": 1}
    config = _config(options.words).with_({"data.cache": False, "train.device": "cpu", **no_trial})
    if config.backbone.weights is None:
        config = config.with_({"backbone.pretrained": False})  # only its image size is needed
    from vpt.training.batch_pictures import draw_batch, draw_labels
    from vpt.training.run import prepare_run
    from vpt.training.tasks import task_of
    from vpt.training.trainer import build_model
    from vpt.utils.console import Console

    context = prepare_run(config, Console())
    task, model = task_of(context.config), build_model(context)
    folder = options.output or _in_cache(config)
    pictures = [draw_batch(task, model, context, split, folder) for split in ("train", "val")]
    for picture in (*pictures, draw_labels(context.data, folder)):
        if picture is not None:
            show(picture)
    return 0


def _counted(config: RunConfig) -> tuple[str, str] | None:
    """Unit of the counts (rows of tables, or files), and the paths counted; None for a data set given by name."""
    from vpt.data.datasets.csv import is_csv
    from vpt.utils.atomic_io import at_home

    data = config.data
    places = [path for path in (data.path, data.val, data.test) if path is not None]
    if config.task not in ("classification", "regression") or not at_home(data.path).exists():
        return None
    unit = "row" if all(map(is_csv, places)) else "file" if not any(map(is_csv, places)) else "file or row"
    unit += " or slice" if data.slices == "all" else ""
    return unit, " and ".join(places)


def _read(config: RunConfig) -> tuple[LabelledData, list[BoxFound]]:
    """Read the data set and, for detection, the records of its folders. Unusable images are kept for the check, which
    lists them all."""
    if config.task != "classification":
        config = config.with_({"data.on_bad": "skip"})
    if config.task != "detection":
        from vpt.training.tasks import task_of

        return task_of(config).load(config), []
    from vpt.data.detection.registry import numbered, read_boxes

    found, sources = read_boxes(config.data)
    return numbered(found, config.data), sources


def _convert(options: argparse.Namespace) -> int:
    config = _config(options.words, task="detection")
    from vpt.data.detection.convert import convert, left_out
    from vpt.data.detection.registry import load_boxes
    from vpt.data.validation import apply, check

    loaded = load_boxes(config.data)
    data = apply(loaded, check(loaded, config.data.max_pixels), config.data.on_bad)
    folder = convert(data, options.output, options.to)
    for note in (*data.notes, *left_out(data, options.to)):
        show(note)
    show(f"{data.summary()} written to {folder} as {options.to}")
    return 0
