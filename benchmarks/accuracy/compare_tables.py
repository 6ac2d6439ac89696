"""Table of all methods on tasks of the suite, from the results of `suite/compare.py`."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.suite.compare import COMPARED, MEASURED, RESULTS, Rows, Run, rates_of, read
from benchmarks.accuracy.suite.tasks import TASKS
from benchmarks.accuracy.suite_tables import difference
from benchmarks.results_files import rows, words_of

GROUPS = ("natural", "structured")


def accuracies(found: Rows, method: str, rate: float) -> dict[str, list[float]]:
    """Task to test accuracies in percent, of the seeds 0, 1, ... that have all tasks."""
    seeds = 0
    while all(Run(method, task, rate, seeds) in found for task in MEASURED):
        seeds += 1
    return {task: [100 * (found[Run(method, task, rate, s)]["test"] or 0) for s in range(seeds)] for task in MEASURED}


def means(tasks: dict[str, list[float]], group: str) -> list[float]:
    """Mean over the tasks of a group, seed by seed."""
    return np.mean([tasks[task] for task in tasks if TASKS[task].group == group], axis=0).tolist()


def compared() -> str:
    """A line for each method whose rate is known and that has at least two seeds."""
    found = read(RESULTS / "cpu/methods.jsonl")
    chosen = {method: rates_of(method, found) for method in COMPARED}
    measured = {method: accuracies(found, method, rate) for method, (_, rate) in chosen.items() if rate is not None}
    body = []
    for method, tasks in measured.items():
        tried, rate = chosen[method]
        seeds = len(tasks[MEASURED[0]])
        if rate is None or seeds < 2:
            continue
        cells = [method, str(seeds), *(f"{np.mean(tasks[task]):.1f}" for task in MEASURED)]
        for group in GROUPS:
            both = list(zip(means(tasks, group), means(measured["deep"], group), strict=False))
            cells.append("" if method == "deep" else difference(*map(list, zip(*both, strict=True))))
        end = " †" if rate in (tried[0], tried[-1]) else ""
        number = found[Run(method, "digits-16", rate, 0)]["parameters"]["learning"]
        body.append([*cells, f"`{METHODS[method][1]}={rate:g}`{end}", f"{number:,}"])
    header = [
        "method",
        "seeds",
        *MEASURED,
        *(f"{group}, minus deep" for group in GROUPS),
        "learning rate",
        "parameters",
    ]
    extra = "; ".join(f"{method} {words_of(METHODS[method][0])}" for method in measured)
    return f"{rows(header, body)}\n\nSettings: {extra}."
