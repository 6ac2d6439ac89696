"""`vpt predict`: predict images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vpt.cli.parser import USAGE
from vpt.utils.atomic_io import write_atomic
from vpt.utils.csv_cells import to_csv
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line
from vpt.utils.precision import PRECISIONS
from vpt.utils.std_streams import say, speaks_utf8

if TYPE_CHECKING:
    from vpt.data.decode import BadImage
    from vpt.inference.classifier import Classifier
    from vpt.inference.predictor import Predictor
    from vpt.inference.result import Result
    from vpt.inference.segmentation import Segmentation


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict",
        help="predict classes, boxes or masks for images",
        description="Predict classes, boxes or masks for images.",
    )
    parser.add_argument("artifact", metavar="RUN|ARTIFACT", help="run folder or artifact")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, globs or http(s) addresses")
    parser.add_argument("--format", choices=["table", "json", "csv", "coco"], default="table", help="default: table")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes per image (default: 5)")
    parser.add_argument(
        "--score", type=float, help="minimum score of boxes (default: that of the best F1 on validation, else 0.3)"
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="SCORE|validation",
        help="predict the positive class of two, or each label, from this score, or from the one that was chosen on "
        "validation (default: as the run's metrics.threshold)",
    )
    parser.add_argument(
        "--iou", type=float, help="IoU above which the less confident of two boxes is left out (default: as trained)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of stdout")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="save images with their prediction drawn; small ones are enlarged"
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="save predicted masks, as PNG whose pixels are class indices"
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
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: as in training, if native to this machine, else fp32",
    )
    parser.set_defaults(run=_predict)


def _threshold(text: str) -> float | str:
    """A score, or the word.

    >>> _threshold("0.3"), _threshold("validation")
    (0.3, 'validation')
    """
    if text == "validation":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"--threshold {one_line(text)[:40]}: give a score from 0 to 1, or the word validation")
    return value


def _predict(options: argparse.Namespace) -> int:
    from vpt.data.decode import BadImage
    from vpt.data.deep_images import explained
    from vpt.inference.image_inputs import find_images
    from vpt.inference.predictor import load
    from vpt.metrics.best_score import shown_score
    from vpt.models.artifact import unfinished

    named = find_images(options.images)  # report a misspelt path before building the backbone
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
    _refuse(options, predictor)
    if options.classes is not None:
        classes = [name.strip() for name in options.classes.split(",") if name.strip()]
        predictor = cast("Classifier", predictor).with_classes(classes)
    if options.threshold is not None:
        given = None if options.threshold == "validation" else options.threshold
        predictor = cast("Classifier", predictor).with_threshold(given)
    least = shown_score(predictor.artifact.metrics) if options.score is None else options.score
    bad: list[BadImage] = []
    predicted = 0

    def results() -> Iterator[Result]:
        nonlocal predicted
        for found in predictor.predict_each(options.images, options.batch_size, options.top):
            if isinstance(found, BadImage):
                bad.append(found)
                continue
            predicted += 1
            found = found.above(least)
            _write_pictures(predictor, found, predicted, options)
            yield found

    unicode, width = options.output is not None or speaks_utf8(), max(len(name) for name, _ in named)
    parts = _text(results(), predictor.columns, options.format, unicode, width)
    if options.output is not None:
        write_atomic(options.output, lambda temporary: _write(temporary, parts))
    else:
        for part in parts:
            sys.stdout.write(part)
    for note in [*predictor.model.backbone.notes, *explained(predictor.artifact.config.data.window, predictor.deep)]:
        print(f"vpt: {note}", file=sys.stderr)
    if "score" in predictor.options and options.score is None:
        say(f"vpt: boxes with a score of at least {least:g}; --score changes that")
    for error in bad:
        say(f"vpt: not predicted: {error}")
    if bad and not predicted:
        return USAGE
    return 1 if bad else 0


def _refuse(options: argparse.Namespace, predictor: Predictor) -> None:
    """Refuse options that the task does not have."""
    given = {"classes": options.classes, "prompted": options.prompted, "draw": options.draw, "masks": options.masks}
    given["threshold"] = options.threshold is not None
    given |= {"coco": options.format == "coco", "score": options.score is not None, "iou": options.iou is not None}
    if wrong := [name for name, value in given.items() if value and name not in predictor.options]:
        words = " and ".join("--format coco" if name == "coco" else f"--{name}" for name in wrong)
        raise UserError(f"{words} cannot be used with an artifact of task={predictor.artifact.config.task}")


def _write_pictures(predictor: Predictor, found: Result, number: int, options: argparse.Namespace) -> None:
    """Write the pictures of a result that the options request."""
    import numpy as np

    from vpt.inference.draw import file_name
    from vpt.utils.plotting import picture_png

    name = file_name(number, found.image)
    if options.prompted is not None:
        assert found.read is not None
        ((_, pixels),) = cast("Classifier", predictor).prompted([found.read()])
        picture_png(pixels, options.prompted / name)
    if options.draw is not None:
        picture_png(np.asarray(found.plot()), options.draw / name)
    if options.masks is not None:
        cast("Segmentation", found).save_mask(options.masks / name)


def _write(path: Path, parts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.writelines(parts)


def _text(results: Iterable[Any], columns: Sequence[str], form: str, unicode: bool, width: int) -> Iterator[str]:
    """The text of results in parts, one result at a time; a table is aligned for names of that width."""
    if form == "json":
        yield from _json_list((found.to_dict() for found in results), unicode)
    elif form == "coco":
        yield from _json_list((row for found in results for row in found.to_coco()), unicode)
    elif form == "csv":
        yield to_csv([columns])
        yield from (to_csv(found.rows()) for found in results)
    else:
        for found in results:
            yield "".join(one_line(f"{found.image:<{width}}  {line}") + "\n" for line in found.lines())


def _json_list(rows: Iterable[Any], unicode: bool) -> Iterator[str]:
    """The text of a list as `json.dumps(list(rows), indent=2)`, escaping non-ASCII characters unless `unicode`.

    >>> "".join(_json_list([{"a": 1}, []], True)) == '[\\n  {\\n    "a": 1\\n  },\\n  []\\n]\\n'
    True
    """
    import json

    before = "[\n  "
    for row in rows:
        yield before + json.dumps(row, indent=2, ensure_ascii=not unicode).replace("\n", "\n  ")
        before = ",\n  "
    yield "[]\n" if before == "[\n  " else "\n]\n"
