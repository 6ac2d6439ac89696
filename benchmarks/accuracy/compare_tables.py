"""Table of all methods on tasks of the suite, from the results of `suite/compare.py`."""

from __future__ import annotations

from statistics import mean, median

from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.suite.compare import COMPARED, DEFAULT, MEASURED, RESULTS, Rows, Run, rates_of, read
from benchmarks.accuracy.suite.tasks import TASKS
from benchmarks.accuracy.suite_tables import difference
from benchmarks.results_files import rows, words_of

LEAST = 3  # seeds of a row
Accuracies = dict[str, list[float]]  # task -> test accuracy in percent, seed by seed


def accuracies(found: Rows, method: str, rate: float) -> Accuracies:
    """Of the seeds 0, 1, ... that have all tasks; a run that failed counts as zero."""
    seeds = 0
    while all(Run(method, task, rate, seeds) in found for task in MEASURED):
        seeds += 1
    return {task: [100 * (found[Run(method, task, rate, s)]["test"] or 0) for s in range(seeds)] for task in MEASURED}


def compared_with(mine: Accuracies, other: Accuracies, group: str) -> str:
    """Difference of the means over the tasks of a group, over the seeds that both have."""
    tasks = [task for task in MEASURED if TASKS[task].group == group]
    seeds = min(len(each[tasks[0]]) for each in (mine, other))
    values, others = ([mean(each[task][seed] for task in tasks) for seed in range(seeds)] for each in (mine, other))
    return difference(values, others)


def slower(found: Rows, method: str, rate: float, deep: float) -> str:
    """Time of a run as a multiple of that of deep prompts on the same images, median over tasks and seeds."""
    done = {run: row["seconds"] for run, row in found.items() if row["test"] is not None}
    mine = {run: seconds for run, seconds in done.items() if (run.method, run.rate) == (method, rate)}
    theirs = {run: done.get(Run("deep", run.task, deep, run.seed)) for run in mine}
    return f"{median(seconds / theirs[run] for run, seconds in mine.items() if theirs[run]):.1f}x"


def compared() -> str:
    """A line for each method that has enough seeds, and for deep prompts with the default rate."""
    found = read(RESULTS / "cpu/methods.jsonl")
    searched = {method: rates_of(method, found) for method in COMPARED}
    rates = {method: rate for method, (_, rate) in searched.items() if rate is not None}
    bases = {"linear": ("linear", rates["linear"]), "deep": ("deep", rates["deep"])}
    bases["default"] = ("deep", DEFAULT["deep"])
    others = {name: accuracies(found, *base) for name, base in bases.items()}
    body = []
    for method, chosen in rates.items():
        for rate in dict.fromkeys([DEFAULT.get(method, chosen), chosen]):
            mine = accuracies(found, method, rate)
            if (seeds := len(mine[MEASURED[0]])) < LEAST:
                continue
            cells = [words_of(METHODS[method][0]), str(seeds)]
            for group in ("natural", "structured"):
                cells += [f"{mean(mine[task]):.1f}" for task in MEASURED if TASKS[task].group == group]
                cells += ["" if mine == base else compared_with(mine, base, group) for base in others.values()]
            tried = searched[method][0]
            note = " (default)" if rate != chosen else " †" if rate in (tried[0], tried[-1]) else ""
            runs = [found[Run(method, "digits-16", rate, seed)] for seed in range(seeds)]
            number = next(run["parameters"]["learning"] for run in runs if run["test"] is not None)
            time = "" if method == "linear" else slower(found, method, rate, rates["deep"])
            body.append([*cells, f"`{METHODS[method][1]}={rate:g}`{note}", f"{number:,}", time])
    header = ["setting", "seeds"]
    for group in ("natural", "structured"):
        header += [task for task in MEASURED if TASKS[task].group == group] + [f"minus {base}" for base in bases]
    return rows([*header, "learning rate", "trainable parameters, with head", "time"], body)
