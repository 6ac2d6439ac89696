"""Comparison of detection runs on the same images: difference in mAP with a bootstrap interval over images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vpt.data.dataset import LabelledData
from vpt.metrics.bootstrap import DRAWS, Rows, matched, resampled
from vpt.metrics.significance import Gain, gain, verdict
from vpt.report.compare import several_pairs
from vpt.report.html import Column, Section, Table, percent, points, render
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Scored:
    """Main metric of several runs on the images that all of them have predictions for.

    Args:
        images: number of images.
        score: of each run on them.
        pairs: every pair of runs, the second compared with the first.
    """

    images: int
    score: Mapping[str, float]
    pairs: Sequence[tuple[str, str, Gain]]


def scored(runs: Mapping[str, tuple[Rows, LabelledData]], split: str) -> Scored:
    """Compare runs by their predicted boxes.

    Args:
        runs: name -> content of `predictions-test.json`, and the data the run was evaluated on.
        split: test or val.

    Raises:
        UserError: fewer than two runs, no image in common, or different labels for the same image.
    """
    if len(runs) < 2:
        raise UserError("fewer than two of the runs have stored their predictions")
    matches, images = matched(runs, split)
    score, drawn = resampled(matches, images)
    pairs = [
        (one, other, gain(drawn[one], drawn[other], score[other] - score[one]))
        for one, other in itertools.combinations(runs, 2)
    ]
    return Scored(images, score, pairs)


def difference_section(found: Scored, metric: str = "mAP", whole: str = "COCO's mAP") -> Section:
    """One row for every pair: difference, interval and conclusion.

    Args:
        found: the comparison.
        metric: its name in the table.
        whole: its name in the text.
    """
    heads = [Column("run", "text"), Column("compared with", "text phrase"), Column(metric)]
    heads += [Column(name) for name in (f"{metric} of the other", "points", "95% interval")]
    heads.append(Column("conclusion", "text phrase"))
    rows = []
    for one, other, each in found.pairs:
        interval = f"{points(each.low)} to {points(each.high)}"
        scores = [percent(found.score[other]), percent(found.score[one])]
        rows.append([other, one, *scores, points(each.difference), interval, verdict(each)])
    text = (
        f"On the same {found.images:,} images. The interval is a paired bootstrap over images: they are resampled with "
        f"replacement {DRAWS:,} times, identically for all runs, and {whole} is computed for each resample. It "
        "accounts for the choice of test images, but not for the variation between training seeds."
    )
    text += several_pairs(len(rows))
    return Section("differences", "Differences", render("tables.html", tables=[Table("", heads, rows)], text=text))
