"""Search space of a sweep: settings and their values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.config import read_value, read_yaml, split_values, word
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    import optuna

TRIALS = 20  # default number of trials without a grid
FORMS = "give values as A,B,C, a range as LOW..HIGH, or LOW..HIGH:log"


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; integers if both ends are integers."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = Choices | Range


def read_space(over: Mapping[str, Any] | Sequence[str]) -> dict[str, Axis]:
    """Read the axes of a sweep, from words `key=values` or the mapping of a YAML file.

    Raises:
        UserError: an axis cannot be read.

    >>> read_space(["prompt.tokens=5,10", "train.optimizer.lr.prompt=0.001..0.1:log"])["prompt.tokens"].values
    (5, 10)
    """
    if isinstance(over, Mapping):
        return {key: _axis(key, values) for key, values in over.items()}
    axes = {}
    for text in over:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise UserError(f"--over {text}: name a setting; {FORMS}")
        if key in axes:
            raise UserError(f"--over {key} is given twice; give all its values at once: {FORMS}")
        axes[key] = _axis(key, values)
    return axes


@dataclass(frozen=True)
class SpaceFile:
    """Content of a YAML file of a sweep: axes, settings of every run and of the final one, grid or trials."""

    axes: dict[str, Axis]
    words: tuple[str, ...] = ()
    grid: bool = False
    trials: int | None = None
    final: tuple[str, ...] = ()


def read_space_file(file: str | Path) -> SpaceFile:
    """Read a file such as `configs/sweep/vpt.yaml`.

    Raises:
        UserError: the file cannot be read, or contains something else.
    """
    tree = read_yaml(file)
    over, grid, trials = tree.get("over"), tree.get("grid", False), tree.get("trials")
    if not isinstance(over, dict) or set(tree) - {"over", "grid", "trials", "final", "words"}:
        raise UserError(f"{file} must contain `over`, and may contain words, grid, trials and final")
    if not isinstance(grid, bool):
        raise UserError(f"{file}: grid={grid} must be true or false")
    if trials is not None and (type(trials) is not int or trials < 1):
        raise UserError(f"{file}: trials={trials} must be a whole number, at least 1")
    words, final = (_words(tree, key, file) for key in ("words", "final"))
    return SpaceFile(read_space({str(key): values for key, values in over.items()}), words, grid, trials, final)


def _words(tree: Mapping[str, Any], key: str, file: str | Path) -> tuple[str, ...]:
    found = tree.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise UserError(f"{file}: {key} must be a list of key=value, as in {key}: [train.epochs=10]")
    return tuple(found)


def _axis(key: str, values: Any) -> Axis:
    if isinstance(values, list):
        found = tuple(map(_item, values))
    else:
        text = values if isinstance(values, str) else json.dumps(values, default=str)
        parts = [part.strip() for part in split_values(text) if part.strip()]
        if any(".." in part and "/" not in part and part[0] not in "[{\"'" for part in parts):
            return _range(key, text)
        found = tuple(map(read_value, parts))
        for part, value in zip(parts, found, strict=True):
            if part[0] in "[{" and isinstance(value, str):
                raise UserError(f"{key}={values}: {part} cannot be read; close its brackets")
    if not found or len({repr(_stored(value)) for value in found}) < len(found):
        raise UserError(f"{key}={values}: {FORMS}; each value once")
    return Choices(found)


def _item(value: Any) -> Any:
    """Convert an item of a YAML list; 1e-3, which YAML reads as text, becomes a number."""
    number = read_value(value) if isinstance(value, str) and "e" in value.lower() else None
    return number if isinstance(number, float) else value


def _range(key: str, text: str) -> Range:
    body, _, kind = text.partition(":")
    try:
        low, high = (read_value(end) for end in body.split(".."))
        low, high = (end if isinstance(end, int) else float(end) for end in (low, high))
        good = math.isfinite(low) and low < high and kind in ("", "log") and (kind != "log" or low > 0)
    except (ValueError, TypeError):
        good = False
    if not good:
        raise UserError(f"{key}={text}: {FORMS}, with LOW below HIGH, above 0 for log")
    return Range(low, high, kind == "log")


def suggest(trial: optuna.Trial, axes: Mapping[str, Axis]) -> list[str]:
    """Settings of a trial as `key=value` words."""
    params: dict[str, Any] = {}
    for key, axis in axes.items():
        if isinstance(axis, Choices):
            params[key] = trial.suggest_categorical(key, [_stored(value) for value in axis.values])
        elif axis.whole:
            params[key] = trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)
        else:
            params[key] = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return words_of(params, axes)


def words_of(params: Mapping[str, Any], axes: Mapping[str, Axis]) -> list[str]:
    """Convert Optuna's parameters of a trial to `key=value` words, with exactly the values of the axes.

    >>> words_of({"prompt.layers": "[0, 1]"}, {"prompt.layers": Choices(([0, 1], "all"))})
    ['prompt.layers=[0, 1]']
    >>> words_of({"data.path": "2024"}, read_space(["data.path='2024',photos"]))
    ['data.path="2024"']
    """
    return [word(key, _meant(params[key], axis)) for key, axis in axes.items() if key in params]


def _meant(stored: Any, axis: Axis) -> Any:
    values = axis.values if isinstance(axis, Choices) else ()
    return next((value for value in values if repr(_stored(value)) == repr(stored)), stored)


def grid_of(axes: Mapping[str, Axis]) -> dict[str, list[Any]]:
    """All values of every axis, for a grid.

    Raises:
        UserError: an axis is a range.
    """
    for key, axis in axes.items():
        if isinstance(axis, Range):
            raise UserError(f"{key} is a range; a grid needs values: {key}=A,B,C")
    return {key: [_stored(value) for value in axis.values] for key, axis in axes.items() if isinstance(axis, Choices)}


def _stored(value: Any) -> Any:
    """Convert a value for Optuna: numbers, strings, booleans and null are unchanged; anything else becomes JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, default=str)
