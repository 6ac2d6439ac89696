"""Report of segmentation runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from vpt.metrics.segmentation_bootstrap import interval, resampled
from vpt.metrics.significance import gain, shared_images
from vpt.report.compare_detection import Scored, difference_section
from vpt.report.html import Section, percent
from vpt.report.page import Options, by_name, data_of, or_note
from vpt.report.run_data import Source
from vpt.report.segmentation import Predicted, classes_section, counts_of, pictures_section
from vpt.report.summary import interval_text
from vpt.report.tasks import SPLITS, Pairs, TaskReport
from vpt.utils.atomic_io import read_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError


class SegmentationReport(TaskReport):
    """Sections of segmentation runs."""

    titles: ClassVar[Mapping[str, str]] = {
        "miou": "mean IoU",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy of classes",
        "mean_dice": "mean Dice",
        "boundary_f": "boundary F",
    }
    class_metric = ("iou", "IoU")

    def read_predictions(self, folder: Path, split: str, notes: list[str]) -> Sequence[Predicted]:
        """See TaskReport.read_predictions."""
        path = folder / f"predictions-{split}.json"
        if not path.is_file():
            return ()
        try:
            rows = read_json(path, "it was removed while it was being read")
            return TypeAdapter(list[Predicted]).validate_python(rows)
        except UserError as error:
            notes.append(str(error))
        except ValidationError as error:
            first = error.errors()[0]
            notes.append(f"{path} is ignored: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        return ()

    def class_names(self, predictions: Sequence[Predicted]) -> Sequence[str]:
        """See TaskReport.class_names."""
        return sorted({name for row in predictions for name in row.counts})

    def page(self, source: Source, options: Options, console: Console) -> tuple[str, list[Section]]:
        """See TaskReport.page."""
        rows, found = source.predictions, source.measured
        sections = [classes_section(found, source.classes)] if found else []

        def pictures() -> Section:
            if not rows:
                raise UserError(f"{source.folder} has no predictions-{source.split}.json")
            data = data_of(source)
            if isinstance(data, UserError):
                raise data
            records, most = by_name(data, source.split), source.config.data.max_pixels
            return pictures_section(rows, records, source.classes, options.images, most)

        if rows or found:
            sections.append(or_note("pictures", "Worst images", pictures))
        return self.sentence(source) if found else "", sections

    def sentence(self, source: Source) -> str:
        """See TaskReport.sentence."""
        found = source.measured
        text = (
            f"Mean IoU is {percent(found.get('miou'))} and pixel accuracy {percent(found.get('pixel_accuracy'))} on "
            f"{found['images']:,} {SPLITS[source.split]} images."
        )
        if rows := [row for row in source.predictions if row.counts]:
            low, high = interval(counts_of(rows, source.classes))
            text += f" {interval_text(low, high)} of the mean IoU (bootstrap over images)."
        return text

    def differences(self, named: Mapping[str, Source], options: Options) -> tuple[Pairs, list[Section]]:
        """See TaskReport.differences."""
        runs = {name: {row.image: row for row in source.predictions if row.counts} for name, source in named.items()}
        runs = {name: rows for name, rows in runs.items() if rows}
        if len(runs) < 2:
            raise UserError("fewer than two of the runs have stored their predictions")
        if len({named[name].split for name in runs}) > 1:
            raise UserError("the runs were not evaluated on the same split")
        images = shared_images(
            {name: {image: _true(row) for image, row in rows.items()} for name, rows in runs.items()}
        )
        classes = sorted({label for rows in runs.values() for image in images for label in rows[image].counts})
        counts = {name: counts_of([rows[image] for image in images], classes) for name, rows in runs.items()}
        score, drawn = resampled(counts)
        pairs = [
            (one, other, gain(drawn[one], drawn[other], score[other] - score[one]))
            for one, other in itertools.combinations(runs, 2)
        ]
        scored = Scored(len(images), score, pairs)
        return pairs, [difference_section(scored, "mean IoU", "the mean IoU")]


def _true(row: Predicted) -> dict[str, int]:
    """Pixels of each class in the mask."""
    return {label: true for label, (_, _, true) in row.counts.items() if true}
