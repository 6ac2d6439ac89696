"""The published numbers, from published.json beside this file: each with its source and the text it was read in.

An entry is of one suite, method and backbone. `tasks` holds percent by task, `means` by a group's name, "group means"
or "all tasks"; either may lack. A number stands for every measure, unless it is a mapping of measures: of base, new and
harmonic mean, or of numbers of shots. `pixels` is the normalisation ("imagenet", "own", "none"), None where the source
does not say. `like` names settings of ours that are the same method; a list of such: any of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vpt.config import RunConfig

Number = float | Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """A paper."""

    title: str
    authors: str
    year: int
    venue: str
    url: str

    def text(self) -> str:
        """One line.

        >>> Source("Visual Prompt Tuning", "Jia et al.", 2022, "ECCV", "https://arxiv.org/abs/2203.12119").text()
        'Jia et al., Visual Prompt Tuning, ECCV 2022, https://arxiv.org/abs/2203.12119'
        """
        return f"{self.authors}, {self.title}, {self.venue} {self.year}, {self.url}"


@dataclass(frozen=True)
class Published:
    """What one method was reported to reach in one suite, on one backbone; see the head of this file."""

    suite: str
    method: str
    backbone: str
    source: Source
    table: str
    checked: tuple[str, ...]
    pixels: str | None
    tasks: Mapping[str, Number]
    means: Mapping[str, Number]
    like: tuple[Mapping[str, Any], ...]
    note: str | None

    def number(self, place: str, measure: str, mean: bool = False) -> float | None:
        """The percent of a task, or of a mean; None where none was published."""
        found = (self.means if mean else self.tasks).get(place)
        return found.get(measure) if isinstance(found, Mapping) else found

    def is_method_of(self, config: RunConfig) -> bool:
        """Whether these settings are this method."""
        return any(all(_setting(config, key) == value for key, value in like.items()) for like in self.like)


def _alternatives(like: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(like if isinstance(like, list) else [like])


def _setting(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


@cache
def _stored() -> tuple[Published, ...]:
    tree = json.loads((resources.files("vpt") / "bench" / "published.json").read_text(encoding="utf-8"))
    sources = {key: Source(**value) for key, value in tree["sources"].items()}
    return tuple(
        Published(
            suite=entry["suite"],
            method=entry["method"],
            backbone=entry["backbone"],
            source=sources[entry["source"]],
            table=entry["table"],
            checked=tuple(entry["checked"]),
            pixels=entry["pixels"],
            tasks=entry.get("tasks", {}),
            means=entry.get("means", {}),
            like=_alternatives(entry.get("like", [])),
            note=entry.get("note"),
        )
        for entry in tree["results"]
    )


def published(suite: str) -> list[Published]:
    """Everything that is published of a suite.

    >>> [entry.method for entry in published("vtab")][:5]
    ['Full', 'Linear', 'Bias', 'VPT-shallow', 'VPT-deep']
    """
    return [entry for entry in _stored() if entry.suite == suite]
