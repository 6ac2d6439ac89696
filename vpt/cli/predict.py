"""`vpt predict`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.cli.parser import USAGE
from vpt.utils.atomic_io import write_text
from vpt.utils.csv_cells import to_csv
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line, original
from vpt.utils.precision import PRECISIONS
from vpt.utils.std_streams import say, speaks_utf8

if TYPE_CHECKING:
    from vpt.data.decode import BadImage
    from vpt.inference.predictor import Predictor
    from vpt.inference.results import Classification, Detections


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("predict", help="classify, or find boxes in, files, folders or globs")
    parser.add_argument("artifact", metavar="RUN|ARTIFACT")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument("--format", choices=["table", "json", "csv", "coco"], default="table")
    parser.add_argument("--top", type=int, default=5, help="classes named for each image (default 5)")
    parser.add_argument("--score", type=float, default=0.3, help="boxes below this score are left out (default 0.3)")
    parser.add_argument("--output", type=Path, help="write to this file instead of stdout")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write pictures with boxes drawn, small ones enlarged")
    parser.add_argument("--classes", help="other class names, comma-separated, where the head reads names (zeroshot)")
    parser.add_argument("--prompted", type=Path, metavar="DIR", help="write what the backbone sees, as PNG")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", type=Path, help="file of the backbone's weights, if it moved or is not yours")
    parser.add_argument("--backbone", metavar="NAME", help="its name, if it is a repository or a folder you trust")
    parser.add_argument("--templates", metavar="FILE|TEXT", help="in place of the artifact's own, as head.templates")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is faster on a GPU")
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from vpt.data.decode import BadImage
    from vpt.data.deep_images import explained
    from vpt.inference.image_inputs import find_images
    from vpt.inference.predictor import BoxPredictor, Classifier, load

    find_images(options.images)  # a misspelt path is told before the backbone is built
    predictor = load(
        options.artifact,
        options.device,
        options.weights,
        precision=options.precision,
        backbone=options.backbone,
        templates=options.templates,
    )
    finds_boxes = isinstance(predictor, BoxPredictor)
    _refuse(options, finds_boxes)
    if options.classes is not None:
        assert isinstance(predictor, Classifier)
        predictor = predictor.with_classes([name.strip() for name in options.classes.split(",") if name.strip()])
    results: list[Any] = []
    bad: list[BadImage] = []
    for found in predictor.predict_each(options.images, options.batch_size, options.top):
        if isinstance(found, BadImage):
            bad.append(found)
        else:
            results.append(found.above(options.score) if finds_boxes else found)  # type: ignore[union-attr]
    text = _text(results, options.format, finds_boxes, unicode=options.output is not None or speaks_utf8())
    if options.output is not None:
        write_text(options.output, text)
    else:
        sys.stdout.write(text)
    for note in [*predictor.model.backbone.notes, *explained(predictor.artifact.config.data.window, predictor.deep)]:
        print(f"vpt: {note}", file=sys.stderr)
    for error in bad:
        say(f"vpt: not predicted: {error}")
    if options.prompted is not None:
        _write_prompted(predictor, [original(result.image) for result in results], options.prompted)
    if options.draw is not None:
        _write_drawn(predictor, results, options.draw)
    if bad and not results:
        return USAGE
    return 1 if bad else 0


def _refuse(options: argparse.Namespace, finds_boxes: bool) -> None:
    if finds_boxes and (options.classes or options.prompted):
        raise UserError("--classes and --prompted belong to classification; this artifact finds boxes")
    if not finds_boxes and (options.draw or options.format == "coco"):
        raise UserError("--draw and --format coco belong to boxes; this artifact classifies")


def _write_prompted(predictor: Predictor, images: Sequence[Path], folder: Path) -> None:
    from vpt.inference.predictor import Classifier
    from vpt.utils.plotting import picture_png

    assert isinstance(predictor, Classifier)
    for number, (name, pixels) in enumerate(predictor.prompted(list(images)), 1):
        picture_png(pixels, folder / f"{number:04d}-{Path(name).stem}.png")


def _write_drawn(predictor: Predictor, results: Sequence[Detections], folder: Path) -> None:
    from vpt.data.decode import decode
    from vpt.metrics.detection_plots import draw_boxes, enlarged
    from vpt.utils.plotting import picture_png

    data = predictor.artifact.config.data
    for number, found in enumerate(results, 1):
        captions = [f"{label} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
        pixels, times = enlarged(decode(original(found.image), data.max_pixels, window=data.window))
        drawn = draw_boxes(pixels, found.boxes * times, found.class_ids.tolist(), captions)
        picture_png(drawn, folder / f"{number:04d}-{Path(found.image).stem}.png")


def _text(results: Sequence[Any], form: str, finds_boxes: bool, unicode: bool) -> str:
    if form == "json":
        return _as_json([result.to_dict() for result in results], unicode)
    if form == "coco":
        return _as_json([row for result in results for row in result.to_coco()], unicode)
    if form == "csv":
        return _boxes_as_csv(results) if finds_boxes else _as_csv(results)
    return _boxes_as_table(results) if finds_boxes else _as_table(results)


def _as_json(rows: Sequence[Any], unicode: bool) -> str:
    """As JSON; its own escapes for what a terminal may lack, if `unicode` is not wanted."""
    import json

    return json.dumps(rows, indent=2, ensure_ascii=not unicode) + "\n"


def _as_table(results: Sequence[Classification]) -> str:
    width = max((len(result.image) for result in results), default=0)
    lines = []
    for result in results:
        scores = "  ".join(f"{label} {score:.3f}" for label, score in zip(result.labels, result.scores, strict=True))
        lines.append(one_line(f"{result.image:<{width}}  {scores}") + "\n")
    return "".join(lines)


def _as_csv(results: Sequence[Classification]) -> str:
    rows = [
        (result.image, rank, label, f"{score:.6f}")
        for result in results
        for rank, (label, score) in enumerate(zip(result.labels, result.scores, strict=True), 1)
    ]
    return to_csv([("image", "rank", "label", "score"), *rows])


def _boxes_as_table(results: Sequence[Detections]) -> str:
    width = max((len(result.image) for result in results), default=0)
    lines = []
    for result in results:
        if not len(result):
            lines.append(f"{result.image:<{width}}  nothing")
        for box, label, score in zip(result.boxes, result.labels, result.scores, strict=True):
            corners = " ".join(f"{value:.0f}" for value in box)
            lines.append(f"{result.image:<{width}}  {label} {score:.3f}  {corners}")
    return "".join(one_line(line) + "\n" for line in lines)


def _boxes_as_csv(results: Sequence[Detections]) -> str:
    rows = [
        (result.image, label, f"{score:.6f}", *(f"{value:.2f}" for value in box))
        for result in results
        for box, label, score in zip(result.boxes, result.labels, result.scores, strict=True)
    ]
    return to_csv([("image", "label", "score", "x1", "y1", "x2", "y2"), *rows])
