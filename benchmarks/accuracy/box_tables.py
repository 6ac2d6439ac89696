"""Table of docs/detection.md: head alone and deep prompts on the small tasks of box_tasks.py, paired by seed."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.accuracy.box_tasks import BOX_TASKS
from benchmarks.accuracy.suite_tables import difference
from benchmarks.results_files import RESULTS, read, rows, words_of

LABEL = "vpt_nano-small-head"
METHODS = ("head only", "deep")


def small_boxes() -> str:
    """A row per task; one whose rates and seeds are not all measured has its best run on validation of each method."""
    stems = {name: f"methods-{name}-{LABEL}" for name in BOX_TASKS}
    found = {name: read(stem) for name, stem in stems.items() if (RESULTS / f"{stem}.json").is_file()}
    body = [_row(name, *(_measured(each, method) for method in METHODS)) for name, each in found.items() if _both(each)]
    header = [
        "task",
        "head only",
        "deep",
        "difference",
        "seeds",
        "learning rates",
        "trainable parameters",
        "time of deep",
    ]
    settings = words_of(next(iter(found.values()))["settings"])
    caption = (
        "Test mAP in percent; the difference is paired by seed, with the 95% interval of Student's t. Where one seed "
    )
    caption += (
        "is stated, a single rate of each was tried. The time was measured on a machine that was also used otherwise."
    )
    return f"{rows(header, body)}\n\n{caption} Settings: {settings}."


def _both(found: dict[str, Any]) -> bool:
    known = {each["method"] for each in [*found["rows"], *found["runs"].values()]}
    return known >= set(METHODS)


def _measured(found: dict[str, Any], method: str) -> dict[str, Any]:
    """The row of a method, or its run with the best validation score in the form of a row."""
    row = next((row for row in found["rows"] if row["method"] == method), None)
    if row is not None:
        return dict(row)
    run = max((run for run in found["runs"].values() if run["method"] == method), key=lambda run: float(run["val"]))
    rates = [word.rpartition(".lr.")[2] for word in run["words"] if ".lr." in word]
    seconds = run["seconds"] / run["epochs"]
    return {**run, "test": [run["test"]], "chosen": rates[-1], "seconds_per_epoch": seconds}


def _row(name: str, alone: dict[str, Any], deep: dict[str, Any]) -> list[str]:
    count = min(len(alone["test"]), len(deep["test"]))
    scores = [[100 * score for score in each["test"][:count]] for each in (alone, deep)]
    means = [statistics.mean(each) for each in scores]
    return [
        name,
        *(f"{mean:.1f}" for mean in means),
        difference(scores[1], scores[0]) if count > 1 else f"{means[1] - means[0]:+.1f}",
        str(count),
        f"`{alone['chosen']}`, `{deep['chosen']}`",
        f"{alone['parameters']['learning']:,}, {deep['parameters']['learning']:,}",
        f"{deep['seconds_per_epoch'] / alone['seconds_per_epoch']:.1f}x",
    ]
