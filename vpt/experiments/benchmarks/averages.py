"""Means over tasks; a mean over an incomplete set never has the name of the complete set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from vpt.experiments.benchmarks.suites import Suite

GROUPS, ALL = "group means", "all tasks"  # besides the names of groups


class Mean(NamedTuple):
    """A mean in percent: its key among published means, its title, its tasks, and whether the set is
    complete."""

    key: str
    title: str
    value: float
    tasks: tuple[str, ...]
    complete: bool


def means(suite: Suite, values: Mapping[str, float]) -> list[Mean]:
    """Means of a suite: of each group, of the group means, and of all tasks; only of the groups if one task is the
    training data of all others.

    Args:
        values: percent by task; tasks may be missing.

    >>> from vpt.experiments.benchmarks.suites import SUITES
    >>> for mean in means(SUITES["vtab"], {"dtd": 60.0, "svhn": 80.0, "kitti": 70.0}):
    ...     print(f"{mean.title}: {mean.value:.1f}")
    natural, mean of 2 of 7: 70.0
    structured, mean of 1 of 8: 70.0
    mean of 3 of 19 tasks: 70.0
    """
    found = []
    for group in suite.groups:
        of = [task.name for task in suite.tasks.values() if task.group == group]
        found += _mean(group, of, values, f"{group}, mean of {{}}")
    if suite.source is not None:
        return found
    whole = [mean for mean in found if mean.complete]
    if len(suite.groups) > 1 and len(whole) == len(suite.groups):
        value = statistics.mean(mean.value for mean in whole)
        found.append(Mean(GROUPS, f"mean of the {len(whole)} group means", value, tuple(suite.tasks), True))
    return [*found, *_mean(ALL, list(suite.tasks), values, "mean of {} tasks")]


def _mean(key: str, of: list[str], values: Mapping[str, float], title: str) -> list[Mean]:
    here = tuple(task for task in of if task in values)
    if not here:
        return []
    complete = len(here) == len(of)
    text = title.format(len(of) if complete else f"{len(here)} of {len(of)}")
    return [Mean(key, text, statistics.mean(values[task] for task in here), here, complete)]
