"""Table of docs/detection.md: head alone and deep prompts on the small tasks of box_tasks.py, paired by seed."""

from __future__ import annotations

from benchmarks.accuracy.box_tasks import BOX_TASKS
from benchmarks.accuracy.suite_tables import difference
from benchmarks.results_files import RESULTS, read, rows, words_of

HEADS = {"": "4 convolutions", "-small-head": "none"}
BODY = ["head only", "deep"]


def small_boxes() -> str:
    """A row per task and head."""
    found = {}
    for name in BOX_TASKS:
        for label in HEADS:
            if (RESULTS / f"methods-{name}-vpt_nano{label}.json").is_file():
                found[name, label] = read(f"methods-{name}-vpt_nano{label}")
    body = []
    for (name, label), each in found.items():
        by_name = {row["method"]: row for row in each["rows"]}
        alone, deep = (by_name[method] for method in BODY)
        scores = [[100 * score for score in row["test"]] for row in (alone, deep)]
        count = min(map(len, scores))
        body.append(
            [
                name,
                str(BOX_TASKS[name].images),
                HEADS[label],
                *(f"{100 * row['mean']:.1f}" for row in (alone, deep)),
                difference(scores[1][:count], scores[0][:count]),
                f"`{alone['chosen']}`, `{deep['chosen']}`",
                f"{deep['seconds_per_epoch'] / alone['seconds_per_epoch']:.1f}x",
            ]
        )
    header = ["task", "images", "head's convolutions", "head only", "deep", "difference", "rates", "time of deep"]
    first, *others = (each["settings"] for each in found.values())
    common = words_of(word for word in first if all(word in other for other in others))
    return f"{rows(header, body)}\n\nTest mAP in percent, mean of {count} seeds. Settings: {common}."
