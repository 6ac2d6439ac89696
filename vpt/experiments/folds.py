"""`vpt train folds=5`: cross-validation, with the mean of the folds and metrics of all out-of-fold predictions.

Every fold is a run in a folder of its own. Finished runs are only read, so the same command continues after an
interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vpt.config import RunConfig
from vpt.config.tasks import in_percent, ranking, task_entry
from vpt.experiments.seeds import methods_in, sentence, summary, train_each
from vpt.metrics.metrics_file import AGAIN, read_metrics
from vpt.metrics.number_predictions import NumberAnswer, read_numbers, write_numbers
from vpt.metrics.predictions import Answer, read_answers, write_answers
from vpt.metrics.regression import regression_metrics
from vpt.metrics.score_metrics import intervals, positive_of, weighted_metrics
from vpt.metrics.segmentation_bootstrap import interval, mean_iou
from vpt.training.run_folder import identity, stem_of
from vpt.utils.atomic_io import read_json, write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.folder_lock import lock_folder
from vpt.utils.plugins import imported

A = TypeVar("A", Answer, NumberAnswer)


def train_folds(config: RunConfig, console: Console | None = None) -> Path:
    """Train a run for every fold of `data.folds`, print the mean of their scores and metrics of all predictions.

    Returns:
        The folder of the runs, with folds.json and predictions.csv (predictions.json of boxes and masks): every image,
        as predicted by the run that was neither trained nor validated on it.

    Raises:
        UserError: settings that leave no test images; as `train` does.
    """
    console = console or Console()
    count = config.data.folds or 0
    if config.data.hold_test:
        raise UserError("data.hold_test leaves the folds without test images; leave it out")
    folder = config.out / (config.name or f"{stem_of(config)}-folds")
    described = identity(config)
    with lock_folder(folder):
        title = f"fold {{}} of 0 to {count - 1}:".format
        runs = train_each(config, folder, described, "data.fold", range(count), title, console)
        if any(found["test"].get(ranking(found["test"])) is None for found in map(_metrics_of, runs)):
            raise UserError(f"a fold of {folder} has nothing to measure: no labelled box or pixel; use fewer folds")
        rows = [{**row, "interval": mean_interval(row["scores"])} for row in summary(runs)]
        for name, row in zip(methods_in(runs[0]), rows, strict=True):
            folders = [run / name for run in runs]
            file = folder / f"predictions{'' if name == '.' else f'-{name}'}"
            if pool := task_entry(config.task).folds:
                files = [each / "predictions-test.csv" for each in folders]
                row["pooled"] = imported(pool)(files, row["metric"], config, file.with_name(f"{file.name}.csv"))
            else:  # boxes or masks
                row["means"] = means_of([read_metrics(each / "metrics.json")["test"] for each in folders])
                row["pooled"] = pool_objects(folders, file.with_name(f"{file.name}.json"))
        write_json(folder / "folds.json", {"folds": count, "rows": rows})
        for row in rows:
            low, high = row["interval"]
            between = (
                f"{100 * low:.1f} to {100 * high:.1f} %" if in_percent(row["metric"]) else f"{low:.3f} to {high:.3f}"
            )
            console.say(f"{sentence(row, 'folds')}; 95% interval {between}")
            if "means" in row:
                others = (
                    f"{name.replace('_', ' ')} {value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"
                    for name, (value, limits) in row["means"].items()
                )
                console.say(f"{row['method']}: mean of the folds, with 95% intervals: {', '.join(others)}")
            if any(isinstance(value, float) for value in row["pooled"].values()):
                console.say(f"{row['method']}: {_in_words(row['pooled'])}")
    return folder


def _metrics_of(run: Path) -> dict[str, Any]:
    return read_metrics(run / "metrics.json")


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean over folds, by the corrected resampled t-test.

    Runs of different folds share training images, so their scores vary less than those of independent runs. The
    variance is corrected as by Nadeau and Bengio, Machine Learning 52, 2003.

    >>> [round(edge, 3) for edge in mean_interval([0.8, 0.9, 0.85])]
    [0.654, 1.046]
    """
    from scipy.stats import t

    count = len(scores)
    deviation = float(np.std(scores, ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation * math.sqrt(1 / count + 1 / (count - 1))
    middle = float(np.mean(scores))
    return middle - half, middle + half


def pool_answers(files: Sequence[Path], metric: str, config: RunConfig, path: Path) -> dict[str, Any]:
    """Write the predicted classes of all folds to one file, and return their metrics."""
    answers, folds = pooled(files, read_answers)
    write_answers(path, answers, folds)
    return pooled_metrics(answers, config, metric == "map")


def pool_numbers(files: Sequence[Path], metric: str, config: RunConfig, path: Path) -> dict[str, Any]:
    """Write the predicted numbers of all folds to one file, and return their metrics."""
    answers, folds = pooled(files, read_numbers)
    write_numbers(path, answers, folds)
    predicted, wanted = (np.array([getattr(one, key) for one in answers]) for key in ("predicted", "true"))
    groups = [one.group for one in answers]
    return {"groups": len(set(filter(None, groups))), **regression_metrics(predicted, wanted, groups)}


def pooled(files: Sequence[Path], read: Callable[[Path], Sequence[A]]) -> tuple[list[A], list[int]]:
    """The predictions of all folds, with the groups numbered throughout, and the fold of each."""
    answers: list[A] = []
    folds: list[int] = []
    numbers: dict[tuple[int, str], str] = {}
    for fold, file in enumerate(files):
        for answer in read(file):
            group = answer.group and numbers.setdefault((fold, answer.group), str(len(numbers) + 1))
            answers.append(replace(answer, group=group))
            folds.append(fold)
    return answers, folds


def pooled_metrics(answers: Sequence[Answer], config: RunConfig, multilabel: bool) -> dict[str, Any]:
    """Metrics of the pooled predictions with bootstrap intervals by group; only the accuracy with very many classes."""
    found: dict[str, Any] = {
        "images": len(answers),
        "groups": len({answer.group for answer in answers if answer.group}),
    }
    if not all(answer.scores for answer in answers):
        return {**found, "accuracy": float(np.mean([answer.right for answer in answers]))}
    classes = [name for name, _ in answers[0].scores]
    chance = np.array([[score for _, score in answer.scores] for answer in answers])
    truth = [[classes.index(name) for name in _labels(answer.true, multilabel)] for answer in answers]
    if multilabel:
        labels = np.zeros(chance.shape)
        for row, each in enumerate(truth):
            labels[row, each] = 1
    else:
        labels = np.array(truth)[:, 0]
    at, positive = config.metrics.at, positive_of(classes, config.data.positive)
    measured = weighted_metrics(chance, labels, np.ones((1, len(answers))), at, positive)
    found |= {name: float(value[0]) for name, value in measured.items() if math.isfinite(value[0])}
    limits = intervals(chance, labels, [answer.group for answer in answers], at, positive)
    return {**found, "intervals": {name: limits[name] for name in found if name in limits}}


def means_of(measured: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, tuple[float, float]]]:
    """Means over folds, with intervals as of `mean_interval`, of the metrics that all folds have.

    >>> means_of([{"map": 0.4, "images": 3}, {"map": 0.4, "map50": 0.7}])
    {'map': (0.4, (0.4, 0.4))}
    """
    names = [name for name, value in measured[0].items() if isinstance(value, float) and name != "loss"]
    found = {name: [one.get(name) for one in measured] for name in names}
    return {
        name: (float(np.mean(scores)), mean_interval(scores))
        for name, values in found.items()
        if len(scores := [value for value in values if isinstance(value, float)]) == len(measured)
    }


def pool_objects(runs: Sequence[Path], file: Path) -> dict[str, Any]:
    """Write the predicted boxes or masks of all folds to a file; of masks return metrics of all pixels together, with
    bootstrap intervals over groups, or over images without groups."""
    rows: list[dict[str, Any]] = []
    units: dict[tuple[int, str], int] = {}
    for fold, run in enumerate(runs):
        for row in read_json(run / "predictions-test.json", AGAIN, f"remove it, and {AGAIN}"):
            own = {"group": str(units.setdefault((fold, row["group"]), len(units) + 1))} if "group" in row else {}
            rows.append({**row, **own, "fold": fold})
    write_json(file, rows)
    found = {"images": len(rows), "groups": len(units)}
    classes = sorted({name for row in rows for name in row.get("counts", ())})
    if not classes:
        return found
    counts = np.zeros((len(units) or len(rows), len(classes), 3))
    for at, row in enumerate(rows):
        for name, each in row["counts"].items():
            counts[int(row["group"]) - 1 if units else at, classes.index(name)] += each
    both, predicted, true = counts.sum(0).T
    there = predicted + true > 0
    dice = float(np.mean(2 * both[there] / (predicted + true)[there]))
    miou = float(mean_iou(counts.sum(0)))
    return {**found, "miou": miou, "mean_dice": dice, "intervals": {"miou": interval(counts)}}


def _labels(text: str, multilabel: bool) -> list[str]:
    if not multilabel:
        return [text]
    return text.split("|") if text else []


def _in_words(found: Mapping[str, Any]) -> str:
    """Pooled metrics in a line.

    >>> _in_words({"images": 9, "groups": 0, "accuracy": 0.5, "intervals": {"accuracy": (0.25, 0.75)}})
    'all 9 out-of-fold predictions: accuracy 0.500 (0.250 to 0.750)'
    """
    limits = found.get("intervals", {})
    parts = []
    for name, value in found.items():
        if isinstance(value, float):
            between = f" ({limits[name][0]:.3f} to {limits[name][1]:.3f})" if name in limits else ""
            parts.append(f"{name.replace('_', ' ')} {value:.3f}{between}")
    groups = f" of {found['groups']} groups" if found["groups"] else ""
    return f"all {found['images']} out-of-fold predictions{groups}: {', '.join(parts)}"
