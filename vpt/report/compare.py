"""Comparison of several runs: their scores, where they disagree, and whether the differences are significant."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vpt.data.dataset import Record
from vpt.metrics.classification import reliability
from vpt.metrics.comparison import disagreements
from vpt.metrics.predictions import Answer
from vpt.metrics.significance import Gain, Paired, paired, shared_images, verdict
from vpt.report.errors import thumbnail
from vpt.report.html import Cell, Column, Section, Table, count, duration, main_score, percent, points, render, size
from vpt.report.learning_curves import label_of
from vpt.report.run_data import Source
from vpt.report.summary import score_with_interval
from vpt.report.svg_charts import Chart, Line, line_chart
from vpt.utils.errors import UserError

FEW = 10  # a confidence bin with fewer answers is too noisy to show


@dataclass(frozen=True)
class Common:
    """Answers of several runs for the same images in the same order: run -> answers."""

    answers: Mapping[str, Sequence[Answer]]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(next(iter(self.answers.values())))

    @cached_property
    def pairs(self) -> list[tuple[str, str, Paired]]:
        """Every pair of runs, the second compared with the first."""
        right = {run: [answer.right for answer in found] for run, found in self.answers.items()}
        return [(one, other, paired(right[one], right[other])) for one, other in itertools.combinations(right, 2)]


def in_common(answers: Mapping[str, Sequence[Answer]]) -> Common:
    """Answers for the images that all runs have in common.

    Raises:
        UserError: no image in common, or different labels for the same image.
    """
    by_name = {run: {answer.image: answer for answer in found} for run, found in answers.items()}
    names = shared_images(
        {
            run: {name: sorted(answer.true.split("|")) for name, answer in found.items()}
            for run, found in by_name.items()
        }
    )
    return Common({run: [found[name] for name in names] for run, found in by_name.items()})


def unique_names(sources: Sequence[Source]) -> list[str]:
    """A name for each run: that of its folder, with the parent folder if two folders have the same name."""
    found: list[str] = []
    names = [source.name for source in sources]
    for source in sources:
        parent = source.folder.resolve().parent.name
        name = source.name if names.count(source.name) == 1 else f"{parent}/{source.name}"
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found


def table_section(named: Mapping[str, Source]) -> Section:
    """Scores and costs of the runs."""
    rows = []
    for name, source in named.items():
        metrics, found = source.metrics, source.measured
        learning = metrics["parameters"]["learning"] if "parameters" in metrics else None
        rows.append(
            [
                name,
                source.method,
                score_with_interval(found) if found else "not finished",
                percent(found.get("calibration_error")),
                count(learning),
                Cell(size(metrics.get("artifact_bytes")), metrics.get("artifact_bytes", -1)),
                Cell(duration(metrics.get("seconds")), metrics.get("seconds", -1)),
            ]
        )
    kinds = {source.metric for source in named.values()}
    known = {
        "map": "mAP",
        "miou": "mean IoU",
        "r2": "R²",
        "accuracy": "accuracy (95% interval)" if len(kinds) == 1 else "accuracy",
    }
    score = " or ".join(known.get(kind, kind) for kind in sorted(kinds))
    heads = [Column("run", "text"), Column("method", "text"), Column(score)]
    heads += [Column(title) for title in ("calibration error", "trainable parameters", "artifact", "time")]
    if all(row[3] == "–" for row in rows):
        heads, rows = [*heads[:3], *heads[4:]], [[*row[:3], *row[4:]] for row in rows]
    text = ""
    if len({source.split for source in named.values()}) > 1:
        text = "Warning: these runs were not evaluated on the same split."
    elif len({(source.config.data.path, source.config.data.split_seed) for source in named.values()}) > 1:
        text = "Warning: these runs do not use the same data."
    table = Table("results", heads, rows, sortable=True)
    return Section("runs", "Runs", render("tables.html", tables=[table], text=text))


def lead(named: Mapping[str, Source], pairs: Sequence[tuple[str, str, Paired | Gain]]) -> str:
    """The main result in a sentence or two; `pairs` are the differences that are known."""
    finished = {name: one for name, one in named.items() if one.measured.get(one.metric) is not None}
    if len(finished) < 2 or len({source.metric for source in finished.values()}) > 1:
        return ""
    score = {name: float(source.measured[source.metric]) for name, source in finished.items()}
    first = max(score, key=lambda name: score[name])
    metric = finished[first].metric
    text = f"{first} has the highest {label_of(metric)}, {main_score(metric, score[first])}."
    its = [(other == first, found) for one, other, found in pairs if first in (one, other)]
    if not its:
        return f"{text} Whether the difference is significant is unknown, as there are no predictions by image."
    clear = [found for second, found in its if found.clear and (found.difference > 0) == second]
    others = len(its)
    if not clear:
        return f"{text} Its lead over the other runs is not significant and may be due to the choice of images."
    return f"{text} The difference is significant against {len(clear)} of {others} other run{'s' * (others > 1)}."


def difference_section(common: Common, several: bool) -> Section:
    """One row for every pair: difference, interval, test and conclusion."""
    rows = []
    for one, other, found in common.pairs:
        interval = f"{points(found.low)} to {points(found.high)}"
        p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
        alone = [found.only_second, found.only_first]
        rows.append([other, one, points(found.difference), interval, *alone, p, verdict(found)])
    heads = [Column("run", "text"), Column("compared with", "text phrase"), Column("points"), Column("95% interval")]
    heads += [Column(title) for title in ("only it correct", "only the other correct", "McNemar p")]
    heads.append(Column("conclusion", "text phrase"))
    text = (
        f"On the same {common.images:,} images. The interval is a paired bootstrap over images (10,000 draws), p is "
        "McNemar's exact test. Both account for the choice of test images, but not for the variation between training "
        "seeds."
    )
    if several:
        text = "An image counts as correct if all its labels are correct. " + text
    text += several_pairs(len(rows))
    return Section("differences", "Differences", render("tables.html", tables=[Table("", heads, rows)], text=text))


def several_pairs(pairs: int) -> str:
    """Note on multiple comparisons, to append to a text.

    >>> several_pairs(3)
    ' With 3 pairs, about 0.2 would appear significant by chance alone.'
    """
    if pairs < 2:
        return ""
    return f" With {pairs} pairs, about {0.05 * pairs:.1f} would appear significant by chance alone."


def disagreement_section(common: Common, records: Mapping[str, Record] | None, most: int, max_pixels: int) -> Section:
    """Thumbnails of images on which the runs disagree."""
    apart = disagreements(list(common.answers.values()))
    tiles = []
    for at in apart[:most]:
        row = {run: found[at] for run, found in common.answers.items()}
        first = next(iter(row.values()))
        tiles.append(
            {
                "image": first.image,
                "true": first.true or "no label",
                "said": [
                    (run, answer.predicted or "no label", percent(answer.score, 0), answer.right)
                    for run, answer in row.items()
                ],
                "uri": thumbnail(records, first.image, max_pixels),
            }
        )
    text = f"The runs disagree on {len(apart):,} of {common.images:,} images"
    text += f"; the {len(tiles)} most confident:" if tiles else "."
    return Section("disagreements", "Where they disagree", render("disagreements.html", text=text, tiles=tiles))


def class_section(named: Mapping[str, Source], key: str, title: str) -> Section:
    """A metric of every class by run."""
    sources = [source for source in named.values() if source.measured.get("per_class")]
    if not sources:
        raise UserError("none of the runs is finished")
    scores = {
        name: {row["class"]: row.get(key) for row in source.measured.get("per_class", ())}
        for name, source in named.items()
    }
    classes = list(dict.fromkeys(each for found in scores.values() for each in found))
    rows = [[each, *(percent(found.get(each)) for found in scores.values())] for each in classes]
    heads = [Column("class", "text"), *(Column(name) for name in scores)]
    table = Table(f"{title} by class", heads, rows, sortable=True)
    return Section("classes", "Classes", render("tables.html", tables=[table], text=""))


def calibration_chart(named: Mapping[str, Sequence[Answer]]) -> Chart:
    """Accuracy by confidence, one line for each run."""
    lines = []
    for number, (name, found) in enumerate(named.items()):
        bins = reliability(np.array([one.score for one in found]), np.array([one.right for one in found]))
        points_of = [(bin.confidence, bin.right) for bin in bins if bin.count >= FEW]
        lines.append(Line(name, points_of, number))
    ideal = Line("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)], 7, faint=True)
    text = f"Of 15 confidence bins, those with fewer than {FEW} answers are left out."
    title = "calibration: accuracy by confidence"
    return line_chart(title, [ideal, *lines], "confidence", percent=True, span=(0.0, 1.02), text=text)


def chart_section(charts: Sequence[Chart]) -> Section:
    """Learning curves of all runs together, and further charts."""
    return Section("curves", "Curves", render("charts.html", charts=charts, text="", table=None))
