"""What a sweep searches: settings, and the values each may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vpt.config import read_yaml
from vpt.errors import UserError

if TYPE_CHECKING:
    import optuna

FORMS = "give values as A,B,C, a range as LOW..HIGH, or LOW..HIGH:log"


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; whole ones where both ends are whole."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = Choices | Range


def read_space(over: Mapping[str, Any] | Sequence[str]) -> dict[str, Axis]:
    """Read the axes of a sweep: words `key=values`, or the mapping of a YAML file.

    Raises:
        UserError: an axis that cannot be read, by name.

    >>> read_space(["prompt.tokens=5,10", "train.optimizer.lr.prompt=0.001..0.1:log"])["prompt.tokens"].values
    (5, 10)
    """
    if isinstance(over, Mapping):
        return {key: _axis(key, values) for key, values in over.items()}
    axes = {}
    for word in over:
        key, equals, values = word.partition("=")
        if not equals or not key:
            raise UserError(f"--over {word}: name a setting; {FORMS}")
        axes[key] = _axis(key, values)
    return axes


@dataclass(frozen=True)
class SpaceFile:
    """A YAML file that says what is searched: axes, settings of every run and of the last one, grid or trials."""

    axes: dict[str, Axis]
    words: tuple[str, ...] = ()
    grid: bool = False
    trials: int | None = None
    final: tuple[str, ...] = ()


def read_space_file(file: str | Path) -> SpaceFile:
    """Read a file such as `configs/sweep/vpt.yaml`.

    Raises:
        UserError: a file that cannot be read, or that holds something else.
    """
    tree = read_yaml(file)
    over = tree.get("over")
    if not isinstance(over, dict) or set(tree) - {"over", "grid", "trials", "final", "words"}:
        raise UserError(f"{file} must hold `over`, and may hold words, grid, trials and final")
    words, final = (tuple(str(word) for word in tree.get(key) or []) for key in ("words", "final"))
    return SpaceFile(read_space(over), words, bool(tree.get("grid")), tree.get("trials"), final)


def _axis(key: str, values: Any) -> Axis:
    if isinstance(values, list):
        found = tuple(values)
    else:
        text = str(values)
        if ".." in text:
            return _range(key, text)
        found = tuple(_value(part) for part in text.split(",") if part.strip())
    if not found or len({repr(value) for value in found}) < len(found):
        raise UserError(f"{key}={values}: {FORMS}; each value once")
    return Choices(found)


def _value(text: str) -> Any:
    """A value as YAML reads it; numbers such as 1e-3, which YAML takes for text, as numbers."""
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _range(key: str, text: str) -> Range:
    body, _, kind = text.partition(":")
    try:
        low, high = (_value(end) for end in body.split(".."))
        low, high = (end if isinstance(end, int) else float(end) for end in (low, high))
        good = math.isfinite(low) and low < high and kind in ("", "log") and (kind != "log" or low > 0)
    except (ValueError, TypeError, yaml.YAMLError):
        good = False
    if not good:
        raise UserError(f"{key}={text}: {FORMS}, with LOW below HIGH, above 0 for log")
    return Range(low, high, kind == "log")


def suggest(trial: optuna.Trial, axes: Mapping[str, Axis]) -> list[str]:
    """The settings of a trial, as `key=value` words."""
    words = []
    for key, axis in axes.items():
        if isinstance(axis, Choices):
            words.append(f"{key}={trial.suggest_categorical(key, [_stored(value) for value in axis.values])}")
        elif axis.whole:
            words.append(f"{key}={trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)}")
        else:
            words.append(f"{key}={trial.suggest_float(key, axis.low, axis.high, log=axis.log)!r}")
    return words


def grid_of(axes: Mapping[str, Axis]) -> dict[str, list[Any]]:
    """All values of every axis, for a grid.

    Raises:
        UserError: an axis that is a range.
    """
    for key, axis in axes.items():
        if isinstance(axis, Range):
            raise UserError(f"{key} is a range; a grid needs values: {key}=A,B,C")
    return {key: [_stored(value) for value in axis.values] for key, axis in axes.items() if isinstance(axis, Choices)}


def _stored(value: Any) -> Any:
    """What Optuna keeps of a value: numbers, texts, truth values; lists and mappings as one line of YAML."""
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True).strip()
    return value
