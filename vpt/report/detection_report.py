"""Report of detection runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vpt.data.dataset import LabelledData
from vpt.metrics import bootstrap
from vpt.metrics.best_score import shown_score
from vpt.report import compare_detection
from vpt.report.detection import numbers_section, pictures_section, precision_chart
from vpt.report.html import Section, percent
from vpt.report.page import Options, by_name, data_of, or_note
from vpt.report.run_data import Source
from vpt.report.summary import interval_text
from vpt.report.svg_charts import Chart
from vpt.report.tasks import SPLITS, Pairs, TaskReport
from vpt.utils.atomic_io import read_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError


class DetectionReport(TaskReport):
    """Sections of detection runs."""

    titles: ClassVar[Mapping[str, str]] = {
        "map": "mean average precision",
        "map50": "at overlap 0.5",
        "map75": "at overlap 0.75",
        "recall": "recall, 100 boxes",
    }
    class_metric = ("map", "mAP")

    def read_predictions(self, folder: Path, split: str, notes: list[str]) -> Sequence[dict[str, Any]]:
        """Images, and their boxes with label, score, box_xyxy."""
        return _checked(_rows(folder / f"predictions-{split}.json", notes), notes)

    def page(self, source: Source, options: Options, console: Console) -> tuple[str, list[Section]]:
        """See TaskReport.page."""
        boxes, found = source.predictions, source.measured
        data: LabelledData | UserError = UserError(
            f"{source.folder} has no predictions-{source.split}.json; older runs did not write it"
        )
        data = data_of(source) if boxes else data  # read only if there are predictions to compare with it
        sections = [numbers_section(found)] if found else []

        def pictures() -> Section:
            if isinstance(data, UserError):
                raise data
            records, most = by_name(data, source.split), source.config.data.max_pixels
            return pictures_section(boxes, records, source.classes, options.images, most, shown_score(source.metrics))

        if boxes or found:
            sections.append(or_note("pictures", "Predictions and ground truth", pictures))
        return self.sentence(source) + _interval(source, data) if found else "", sections

    def sentence(self, source: Source) -> str:
        """See TaskReport.sentence."""
        found = source.measured
        return (
            f"Mean average precision is {percent(found['map'])} on {found['images']:,} {SPLITS[source.split]} images "
            f"with {found['boxes']:,} boxes (COCO's, over overlaps of 0.5 to 0.95); at overlap 0.5 it is "
            f"{percent(found.get('map50'))}."
        )

    def charts(self, named: Mapping[str, Source]) -> list[Chart]:
        """See TaskReport.charts."""
        finished = {name: source.measured for name, source in named.items() if source.measured.get("precision")}
        return [precision_chart(finished)] if len(finished) > 1 else []

    def differences(self, named: Mapping[str, Source], options: Options) -> tuple[Pairs, list[Section]]:
        """See TaskReport.differences."""
        splits = {source.split for source in named.values() if source.predictions}
        if len(splits) > 1:
            raise UserError("the runs were not evaluated on the same split")
        known: dict[str, LabelledData | UserError] = {}  # data that several runs share is read once
        found = {}
        for name, source in named.items():
            if source.predictions:
                key = source.config.data.model_dump_json()
                data = known[key] = known[key] if key in known else data_of(source)
                if isinstance(data, UserError):
                    raise data
                found[name] = (source.predictions, data)
        scored = compare_detection.scored(found, splits.pop() if splits else "test")
        return scored.pairs, [compare_detection.difference_section(scored)]


def _interval(source: Source, data: LabelledData | UserError) -> str:
    """Bootstrap interval of a run's mAP in words, if boxes and ground truth are available."""
    if isinstance(data, UserError):
        return ""
    try:
        low, high = bootstrap.interval(source.predictions, data, source.split)
    except UserError:
        return ""  # the section with the images says what is missing
    return f" {interval_text(low, high)} (bootstrap over images)."


def _rows(path: Path, notes: list[str]) -> Sequence[Any]:
    if not path.is_file():
        return ()
    try:
        value = read_json(path, "it was removed while it was being read")
    except UserError as error:
        notes.append(str(error))
        return ()
    if not isinstance(value, list):
        notes.append(f"{path} has an unexpected form")
        return ()
    return value


def _checked(rows: Sequence[Any], notes: list[str]) -> Sequence[dict[str, Any]]:
    try:
        return [
            {
                "image": str(row["image"]),
                "boxes": [
                    {
                        "label": str(box["label"]),
                        "score": float(box["score"]),
                        "box_xyxy": [float(edge) for edge in box["box_xyxy"]],
                    }
                    for box in row["boxes"]
                ],
            }
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        notes.append(f"the predicted boxes have an unexpected form: {error!r}")
        return ()
