"""The form of the rows of a run's log: numbers are numbers before a page is made of them, whoever wrote the run."""

from __future__ import annotations

from typing import Any


def is_row(row: Any) -> bool:
    """Whether a row of a log is one: what it is about, at which step, and numbers by name.

    >>> is_row({"kind": "epoch", "step": 5, "train_loss": 0.5, "lr": {"head": 0.1}}), is_row(["epoch"])
    (True, False)
    """
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or type(row.get("step")) is not int:
        return False
    values = [value for key, value in row.items() if key not in ("kind", "lr")]
    rates = row.get("lr", {})
    return isinstance(rates, dict) and all(map(_is_number, [*values, *rates.values()]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
