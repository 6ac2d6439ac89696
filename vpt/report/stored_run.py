"""The form of what a run folder holds besides its artifact: metrics.json and the rows of its log.

A run folder may be somebody else's, so numbers are numbers and a matrix is square before a page is made of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Count | Annotated[float, Field(ge=-1e30, le=1e30)] | None
Fraction = Annotated[float, Field(ge=0, le=1)]
COLUMNS = ({"precision", "recall", "f1", "support"}, {"map", "boxes"})  # of a class: classification, boxes


class _Stored(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, protected_namespaces=())


class ClassRow(_Stored):
    """What was measured of one class."""

    __pydantic_extra__: dict[str, Number]
    name: Text = Field(alias="class")
    precision: Fraction = 0.0
    recall: Fraction = 0.0
    f1: Fraction = 0.0
    support: Count = 0
    boxes: Count = 0
    map: Fraction | None = None
    average_precision: Fraction | None = None


class Measured(_Stored):
    """What was measured on one split."""

    __pydantic_extra__: dict[str, Number]
    per_class: Annotated[list[ClassRow], Field(max_length=100_000)] = []
    confusion: list[list[Count]] | None = None
    precision: dict[str, list[Fraction]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Measured:
        keys = {frozenset(row.model_fields_set | set(row.model_extra or {})) for row in self.per_class}
        if len(keys) > 1 or any(not any(columns <= key for columns in COLUMNS) for key in keys):
            raise ValueError("per_class: its rows are of different forms")
        if self.confusion is not None and {len(self.confusion), *map(len, self.confusion)} != {len(self.per_class)}:
            raise ValueError("confusion: it is not square")
        return self


class Parameters(_Stored):
    """How many numbers a model has."""

    learning: Count
    total: Count


class Metrics(_Stored):
    """metrics.json of a finished run. An older one may lack some of it."""

    test: Measured | None = None
    val: Measured | None = None
    best_epoch: Count | None = None
    epochs: Count | None = None
    seconds: Number = None
    peak_bytes: Count | None = None
    joules: Number = None
    artifact_bytes: Count | None = None
    parameters: Parameters | None = None
    device: Text = ""
    precision: Text = ""
    data: Text = ""


def wrong_in(metrics: dict[str, Any]) -> str:
    """What is wrong with the content of a metrics.json, or "".

    >>> wrong_in({"seconds": 3.5}), wrong_in({"seconds": "long"})
    ('', 'seconds')
    """
    try:
        Metrics.model_validate(metrics)
    except ValidationError as error:
        place = [str(part) for part in error.errors()[0]["loc"]]
        return ascii(".".join(place))[1:-1][:100] or "its form"
    return ""


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
