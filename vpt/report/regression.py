"""Report of regression runs: predicted against true numbers, and the images that are furthest away."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup

from vpt.data.dataset import Record
from vpt.metrics.number_predictions import NumberAnswer, read_numbers
from vpt.metrics.regression import weighted_regression
from vpt.metrics.significance import gain, shared_images
from vpt.report.compare_detection import Scored, difference_section
from vpt.report.errors import thumbnail
from vpt.report.html import Section, render
from vpt.report.model_outputs import sample
from vpt.report.page import Options, by_name, data_of, or_note, with_note
from vpt.report.run_data import Source
from vpt.report.svg_charts import Chart, Frame, Line, picture, tag
from vpt.report.tasks import SPLITS, Pairs, TaskReport
from vpt.utils.console import Console
from vpt.utils.errors import UserError

MOST = 2000  # points of a chart; more would only make the page larger
DRAWS = 1000


class RegressionReport(TaskReport):
    """Sections of regression runs."""

    titles: ClassVar[Mapping[str, str]] = {
        "r2": "R²",
        "mae": "mean absolute error",
        "rmse": "root mean squared error",
        "pearson": "Pearson's correlation",
    }

    def read_predictions(self, folder: Path, split: str, notes: list[str]) -> Sequence[NumberAnswer]:
        """See TaskReport.read_predictions."""
        file = folder / f"predictions-{split}.csv"
        try:
            return read_numbers(file) if file.is_file() else ()
        except UserError as error:
            notes.append(str(error))
            return ()

    def number(self, key: str, value: float) -> str:
        """See TaskReport.number."""
        return f"{value:.3f}" if key in ("r2", "pearson") else f"{value:.4g}"

    def page(self, source: Source, options: Options, console: Console) -> tuple[str, list[Section]]:
        """See TaskReport.page."""
        answers: Sequence[NumberAnswer] = source.predictions
        if not answers:
            return self.sentence(source) if source.measured else "", []
        chart = scatter(answers, source.classes[0] if source.classes else "number")
        sections = [Section("numbers", "Predicted numbers", render("charts.html", charts=[chart], text="", table=None))]
        data = data_of(source)
        records = None if isinstance(data, UserError) else by_name(data, source.split)
        most = source.config.data.max_pixels
        section = or_note("worst", "Worst images", lambda: worst_section(answers, records, options.images, most))
        if isinstance(data, UserError):
            section = with_note(section, f"The images are not shown: {data}")
        return self.sentence(source) if source.measured else "", [*sections, section]

    def sentence(self, source: Source) -> str:
        """See TaskReport.sentence."""
        found = source.measured
        limits = found.get("intervals", {}).get("mae")
        between = f" (95% confidence interval: {limits[0]:.4g} to {limits[1]:.4g})" if limits else ""
        return (
            f"On {found['images']:,} {SPLITS[source.split]} images the mean absolute error is {found['mae']:.4g}"
            f"{between}, and R² is {found['r2']:.3f}."
        )

    def differences(self, named: Mapping[str, Source], options: Options) -> tuple[Pairs, list[Section]]:
        """See TaskReport.differences."""
        runs = {name: {one.image: one for one in source.predictions} for name, source in named.items()}
        runs = {name: found for name, found in runs.items() if found}
        if len(runs) < 2:
            raise UserError("fewer than two of the runs have stored their predictions")
        if len({named[name].split for name in runs}) > 1:
            raise UserError("the runs were not evaluated on the same split")
        images = shared_images({name: {key: one.true for key, one in found.items()} for name, found in runs.items()})
        generator = np.random.default_rng(0)
        weights = generator.multinomial(len(images), np.full(len(images), 1 / len(images)), size=DRAWS).astype(float)
        whole = np.ones((1, len(images)))
        score: dict[str, float] = {}
        drawn: dict[str, Any] = {}
        for name, found in runs.items():
            predicted = np.array([found[image].predicted for image in images])
            wanted = np.array([found[image].true for image in images])
            score[name] = float(weighted_regression(predicted, wanted, whole)["r2"][0])
            drawn[name] = weighted_regression(predicted, wanted, weights)["r2"]
        if not all(np.isfinite(each).all() for each in (*drawn.values(), np.array([*score.values()]))):
            raise UserError("too few different numbers to compare the runs")
        pairs = [
            (one, other, gain(drawn[one], drawn[other], score[other] - score[one]))
            for one, other in itertools.combinations(runs, 2)
        ]
        return pairs, [difference_section(Scored(len(images), score, pairs), "R²", "R²")]


def scatter(answers: Sequence[NumberAnswer], name: str) -> Chart:
    """Predicted by true numbers, and the line where they are equal.

    >>> scatter([NumberAnswer("a.png", 1.0, 2.0), NumberAnswer("b.png", 3.0, 2.5)], "age").title
    'predicted age by true age'
    """
    shown = [answers[at] for at in sample(range(len(answers)), MOST)]  # type: ignore[arg-type, call-overload]
    low = min(min(one.true, one.predicted) for one in shown)
    high = max(max(one.true, one.predicted) for one in shown)
    if low == high:
        low, high = low - 1, high + 1
    frame = Frame(low, high, low, high, height=400)
    dots = Markup("").join(
        tag("path", d="M{:.1f} {:.1f}h0".format(*frame.at(one.true, one.predicted)), class_="dots t0") for one in shown
    )
    parts = [frame.axes(f"true {name}"), frame.line(Line("equal", [(low, low), (high, high)], 7, faint=True)), dots]
    text = f"{len(shown):,} of {len(answers):,} images. On the line both are equal." if shown else ""
    drawing = picture(f"predicted {name} by true {name}, {len(shown)} points", parts, height=400)
    return Chart(f"predicted {name} by true {name}", drawing, text=text)


def worst_section(
    answers: Sequence[NumberAnswer], records: Mapping[str, Record] | None, most: int, max_pixels: int
) -> Section:
    """Thumbnails of the images whose predictions are furthest away."""
    chosen = sorted(answers, key=lambda one: -one.error)[:most]
    tiles = [
        {
            "image": one.image,
            "true": f"{one.true:.5g}",
            "predicted": f"{one.predicted:.5g}",
            "uri": thumbnail(records, one.image, max_pixels),
        }
        for one in chosen
    ]
    median = float(np.median([one.error for one in answers]))
    text = f"Half of the {len(answers):,} predictions are within {median:.4g}; the {len(tiles)} furthest away:"
    return Section("worst", "Worst images", render("worst.html", text=text, tiles=tiles))
