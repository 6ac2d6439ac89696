"""Learning curves from the log of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpt.config.tasks import in_percent
from vpt.report.html import Section, render
from vpt.report.svg_charts import Chart, Line, Point, line_chart

MOST = 240  # most points of a line; more would only make the page larger

Rows = Sequence[Mapping[str, Any]]


def epochs_of(rows: Rows, key: str) -> list[Point]:
    """(epoch, value) of all epoch rows that have the key. Epochs are numbered on where a later round restarts at 1.

    >>> epochs_of([{"kind": "epoch", "step": 5, "loss": 2.0}, {"kind": "epoch", "step": 10, "loss": 1.0}], "loss")
    [(1.0, 2.0), (2.0, 1.0)]
    """
    length = steps_per_epoch(rows)
    return [(row["step"] / length, float(row[key])) for row in rows if row["kind"] == "epoch" and key in row]


def steps_of(rows: Rows, key: str, inside: str | None = None) -> list[Point]:
    """(epoch, value) of step rows, thinned to `MOST`; `inside` picks a key of a value that is a mapping.

    >>> steps_of([{"kind": "step", "step": 1, "lr": {"head": 0.1}}], "lr", "head")
    [(1.0, 0.1)]
    """
    length = steps_per_epoch(rows)
    found = []
    for row in rows:
        if row["kind"] == "step" and key in row:
            value = row[key] if inside is None else row[key].get(inside)
            if value is not None:
                found.append((row["step"] / length, float(value)))
    stride = -(-len(found) // MOST) or 1
    thin = found[::stride]
    return thin if not found or thin[-1] == found[-1] else [*thin, found[-1]]


def steps_per_epoch(rows: Rows) -> int:
    """Steps of the first epoch; 1 before it has ended, so that the axis counts steps."""
    return next((max(1, row["step"]) for row in rows if row["kind"] == "epoch"), 1)


def best_place(rows: Rows, best_epoch: int | None) -> float | None:
    """Position of the best epoch on the axis. Pruning restarts the count; the best epoch is that of the last round.

    >>> twice = [{"kind": "epoch", "step": 5 * at, "epoch": epoch} for at, epoch in enumerate([1, 2, 1, 2], 1)]
    >>> best_place(twice, 2), best_place(twice, None)
    (4.0, None)
    """
    steps = [row["step"] for row in rows if row["kind"] == "epoch" and row.get("epoch") == best_epoch]
    return steps[-1] / steps_per_epoch(rows) if steps else None


def roles_of(rows: Rows) -> list[str]:
    """Roles with a learning rate of their own, in the order of the log."""
    return list(dict.fromkeys(role for row in rows if row["kind"] == "step" for role in row.get("lr", ())))


def label_of(metric: str) -> str:
    """Readable name of a metric.

    >>> label_of("map")
    'mean average precision'
    """
    return {"map": "mean average precision", "miou": "mean IoU", "r2": "R²"}.get(metric, metric)


def charts(rows: Rows, metric: str, best_epoch: int | None = None) -> list[Chart]:
    """Charts of loss, metric, learning rate and time per epoch; values that were not logged are left out."""
    started = any(row["kind"] == "epoch" for row in rows)
    x = "epoch" if started else "step"
    best = best_place(rows, best_epoch)
    mark = None if best is None else (best, "best epoch")
    steps = Line("one step", steps_of(rows, "loss"), 7, faint=True)
    losses = [Line("training", epochs_of(rows, "train_loss"), 0), Line("validation", epochs_of(rows, "val_loss"), 1)]
    scores = [
        Line("training accuracy" if metric != "accuracy" else "training", epochs_of(rows, "train_accuracy"), 0),
        Line("validation", epochs_of(rows, f"val_{metric}"), 1),
    ]
    rates = [Line(role, steps_of(rows, "lr", role), tone) for tone, role in enumerate(roles_of(rows))]
    if len({tuple(line.points) for line in rates}) == 1 and len(rates) > 1:
        rates = [Line(" and ".join(line.name for line in rates), rates[0].points, 0)]
    rate = "learning rate" + (f" ({rates[0].name})" if len(rates) == 1 else "")
    seconds = [Line("seconds", epochs_of(rows, "seconds"), 0)]
    found = []
    if steps.points or any(line.points for line in losses):
        found.append(line_chart("loss", [steps, *losses], x, mark=mark, from_zero=True))
    if any(line.points for line in scores):
        found.append(line_chart(label_of(metric), scores, x, percent=in_percent(metric), mark=mark))
    if any(line.points for line in rates):
        found.append(line_chart(rate, rates, x, from_zero=True))
    if seconds[0].points:
        found.append(line_chart("seconds per epoch", seconds, x, from_zero=True))
    return found


def section(rows: Rows, metric: str, best_epoch: int | None = None) -> Section:
    """Learning curves of one run."""
    found = charts(rows, metric, best_epoch)
    text = "" if found else "nothing was logged: the run has no log.jsonl, or took no step"
    return Section("curves", "Learning curves", render("charts.html", charts=found, text=text, table=None))


def over_each_other(named: Mapping[str, tuple[Rows, str]]) -> list[Chart]:
    """Validation metric and training loss of several runs in the same charts: name -> rows and metric."""
    metrics = {metric for _, metric in named.values()}
    scores = [Line(n, epochs_of(rows, f"val_{metric}"), t) for t, (n, (rows, metric)) in enumerate(named.items())]
    losses = [Line(n, epochs_of(rows, "train_loss"), t) for t, (n, (rows, _)) in enumerate(named.items())]
    fractions = all(map(in_percent, metrics))
    title = f"validation {label_of(metrics.pop())}" if len(metrics) == 1 else "validation"
    return [
        line_chart(title, scores, "epoch", percent=fractions),
        line_chart("training loss", losses, "epoch", from_zero=True),
    ]
