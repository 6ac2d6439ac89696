"""`vpt predict`: predict images."""

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
    parser = commands.add_parser(
        "predict", help="predict classes or boxes for images", description="Predict classes or boxes for images."
    )
    parser.add_argument("artifact", metavar="RUN|ARTIFACT", help="run folder or artifact")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, globs or http(s) addresses")
    parser.add_argument("--format", choices=["table", "json", "csv", "coco"], default="table", help="default: table")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes per image (default: 5)")
    parser.add_argument(
        "--score", type=float, help="minimum score of boxes (default: that of the best F1 on validation, else 0.3)"
    )
    parser.add_argument(
        "--iou", type=float, help="IoU above which the less confident of two boxes is left out (default: as trained)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of stdout")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="save images with boxes or classes drawn; small ones are enlarged"
    )
    parser.add_argument("--classes", metavar="A,B,...", help="other class names, if the head is zero-shot")
    parser.add_argument(
        "--prompted", type=Path, metavar="DIR", help="save the prompted images that the backbone sees, as PNG"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: 32")
    parser.add_argument("--device", default="auto", help="default: the GPU if there is one")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="backbone weights, if they moved or the run is not yours"
    )
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.add_argument("--templates", metavar="FILE|TEXT", help="templates to use instead of the artifact's")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is faster on a GPU")
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from vpt.data.decode import BadImage
    from vpt.data.deep_images import explained
    from vpt.inference.image_inputs import find_images
    from vpt.inference.predictor import BoxPredictor, Classifier, load
    from vpt.inference.url_image import is_url
    from vpt.metrics.best_score import shown_score
    from vpt.models.artifact import unfinished

    find_images(options.images)  # report a misspelt path before building the backbone
    predictor = load(
        options.artifact,
        options.device,
        options.weights,
        precision=options.precision,
        backbone=options.backbone,
        templates=options.templates,
        overlap=options.iou,
    )
    if note := unfinished(options.artifact):
        say(f"vpt: {note}")
    finds_boxes = isinstance(predictor, BoxPredictor)
    _refuse(options, finds_boxes)
    if options.classes is not None:
        assert isinstance(predictor, Classifier)
        predictor = predictor.with_classes([name.strip() for name in options.classes.split(",") if name.strip()])
    least = shown_score(predictor.artifact.metrics) if options.score is None else options.score
    results: list[Any] = []
    bad: list[BadImage] = []
    for found in predictor.predict_each(options.images, options.batch_size, options.top):
        if isinstance(found, BadImage):
            bad.append(found)
        else:
            results.append(found.above(least) if finds_boxes else found)  # type: ignore[union-attr]
    text = _text(results, options.format, finds_boxes, unicode=options.output is not None or speaks_utf8())
    if options.output is not None:
        write_text(options.output, text)
    else:
        sys.stdout.write(text)
    for note in [*predictor.model.backbone.notes, *explained(predictor.artifact.config.data.window, predictor.deep)]:
        print(f"vpt: {note}", file=sys.stderr)
    if finds_boxes and options.score is None:
        say(f"vpt: boxes with a score of at least {least:g}; --score changes that")
    for error in bad:
        say(f"vpt: not predicted: {error}")
    if options.prompted is not None:
        images = [result.image if is_url(result.image) else original(result.image) for result in results]
        _write_prompted(predictor, images, options.prompted)
    if options.draw is not None:
        _write_drawn(predictor, results, options.draw)
    if bad and not results:
        return USAGE
    return 1 if bad else 0


def _refuse(options: argparse.Namespace, finds_boxes: bool) -> None:
    if finds_boxes and (options.classes or options.prompted):
        raise UserError("--classes and --prompted are for classification; this artifact is a detector")
    if not finds_boxes and options.format == "coco":
        raise UserError("--format coco is for detection; this artifact is a classifier")
    if not finds_boxes and options.score is not None:
        raise UserError("--score is for detection; this artifact is a classifier")


def _write_prompted(predictor: Predictor, images: Sequence[str | Path], folder: Path) -> None:
    from vpt.inference.draw import file_name
    from vpt.inference.predictor import Classifier
    from vpt.utils.plotting import picture_png

    assert isinstance(predictor, Classifier)
    for number, (name, pixels) in enumerate(predictor.prompted(list(images)), 1):
        picture_png(pixels, folder / file_name(number, name))


def _write_drawn(predictor: Predictor, results: Sequence[Any], folder: Path) -> None:
    from vpt.data.decode import decode
    from vpt.inference.draw import drawn, file_name
    from vpt.inference.url_image import UrlImage, is_url
    from vpt.utils.plotting import picture_png

    data = predictor.artifact.config.data
    for number, found in enumerate(results, 1):
        source: Any = UrlImage(found.image) if is_url(found.image) else original(found.image)
        pixels = decode(source, data.max_pixels, found.image, window=data.window)
        picture_png(drawn(pixels, found), folder / file_name(number, found.image))


def _text(results: Sequence[Any], form: str, finds_boxes: bool, unicode: bool) -> str:
    if form == "json":
        return _as_json([result.to_dict() for result in results], unicode)
    if form == "coco":
        return _as_json([row for result in results for row in result.to_coco()], unicode)
    if form == "csv":
        return _boxes_as_csv(results) if finds_boxes else _as_csv(results)
    return _boxes_as_table(results) if finds_boxes else _as_table(results)


def _as_json(rows: Sequence[Any], unicode: bool) -> str:
    """Format as JSON, escaping non-ASCII characters unless `unicode`."""
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
            lines.append(f"{result.image:<{width}}  no boxes")
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
