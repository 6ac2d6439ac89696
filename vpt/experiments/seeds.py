"""`vpt train train.seed=0,1,2`: the same run with several seeds, and the mean and deviation of its scores.

Every run has its own folder in one of their own. Finished runs are only read, so the same command continues after an
interruption.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt.config import RunConfig
from vpt.config.tasks import in_percent, ranking
from vpt.metrics.comparison import method_name
from vpt.metrics.metrics_file import read_metrics
from vpt.training.run import train_or_resume
from vpt.training.run_folder import identity, refuse_other, stem_of
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.folder_lock import lock_folder


def train_seeds(config: RunConfig, seeds: Sequence[int], console: Console | None = None) -> Path:
    """Train a run with each of several seeds, print the mean of its scores, and return the folder of the runs.

    The seed changes initialisation, order and augmentation; the images of a split stay the same (data.split_seed).
    """
    console = console or Console()
    folder = config.out / (config.name or f"{stem_of(config)}-seeds")
    described = identity(config)
    del described["train"]["seed"]
    with lock_folder(folder):
        runs = train_each(config, folder, described, "train.seed", seeds, lambda seed: f"seed {seed}:", console)
        rows = summary(runs)
        write_json(folder / "seeds.json", {"seeds": list(seeds), "rows": rows})
        for row in rows:
            console.say(sentence(row))
    return folder


def train_each(
    config: RunConfig,
    folder: Path,
    described: dict[str, Any],
    key: str,
    values: Sequence[int],
    title: Callable[[int], str],
    console: Console,
) -> list[Path]:
    """Train a run for each value of a setting in a subfolder, such as `seed0`, or read it if it is finished.

    Raises:
        UserError: the folder holds runs of other settings than `described`.
    """
    refuse_other(folder / "settings.json", described)
    write_json(folder / "settings.json", described)
    runs = []
    for value in values:
        run = folder / f"{key.rpartition('.')[2]}{value}"
        console.say(title(value))
        train_or_resume(config.with_({key: value, "out": folder, "name": run.name}), run, console)
        runs.append(run)
    return runs


def methods_in(run: Path) -> list[str]:
    """Folders of a run and of those that it was compared with, below its own."""
    return [".", *sorted(path.parent.name for path in run.glob("compare-*/metrics.json"))]


def summary(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Scores of a run with several seeds, and those of every method that it was compared with."""
    rows = []
    for name in methods_in(runs[0]):
        found = [read_metrics(run / name / "metrics.json") for run in runs]
        split = next((split for split in ("test", "val") if all(_is_measured(one.get(split)) for one in found)), None)
        if split is None:
            continue
        metric = ranking(found[0][split])
        scores = [float(one[split][metric]) for one in found]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        row = {"method": method_name(found[0]), "split": split, "metric": metric, "scores": scores}
        rows.append({**row, "mean": statistics.mean(scores), "std": spread})
    return rows


def _is_measured(found: Mapping[str, Any] | None) -> bool:
    return found is not None and found.get(ranking(found)) is not None


def sentence(row: Mapping[str, Any], what: str = "seeds") -> str:
    """A row of `summary` as a line of text; `what` differs between the scores.

    >>> sentence({"method": "deep prompts", "split": "test", "metric": "accuracy", "scores": [0.9, 0.92], "mean": 0.91,
    ...     "std": 0.0141})
    'deep prompts: test accuracy 91.0 ± 1.4 % (mean ± standard deviation of 2 seeds: 90.0, 92.0)'
    """
    scale, digits, unit = (100, 1, " %") if in_percent(row["metric"]) else (1, 3, "")
    scores = ", ".join(f"{scale * score:.{digits}f}" for score in row["scores"])
    return (
        f"{row['method']}: {row['split']} {row['metric']} {scale * row['mean']:.{digits}f} ± "
        f"{scale * row['std']:.{digits}f}{unit} "
        f"(mean ± standard deviation of {len(row['scores'])} {what}: {scores})"
    )
