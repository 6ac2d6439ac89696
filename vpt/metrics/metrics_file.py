"""Schema of metrics files, which runs and protocols write, and reports, sweeps and benchmarks read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from vpt.config.tasks import main_metrics
from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError

AGAIN = "give the same command again"
LARGEST = 2**63
Count = Annotated[StrictInt, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)] | Annotated[StrictInt, Field(ge=-LARGEST, le=LARGEST)]


class _ClassRow(BaseModel):
    """Metrics of a class: precision, recall, f1 and support of classification, map and boxes of detection, or those of
    segmentation with pixels."""

    model_config = ConfigDict(extra="forbid")
    name: StrictStr = Field(alias="class")
    precision: Fraction | None = None
    recall: Fraction | None = None
    f1: Fraction | None = None
    support: Count | None = None
    average_precision: Fraction | None = None
    map: Fraction | None = None
    boxes: Count | None = None
    iou: Fraction | None = None
    dice: Fraction | None = None
    boundary: Fraction | None = None
    pixels: Count | None = None

    @model_validator(mode="after")
    def _of_one_task(self) -> _ClassRow:
        classified = None not in (self.precision, self.recall, self.f1, self.support)
        if not classified and self.boxes is None and self.pixels is None:
            raise ValueError("a class needs precision, recall, f1 and support, or map and boxes, or iou and pixels")
        return self


class _Split(BaseModel):
    """Metrics of a split: numbers by name, the classes, and the confusion matrix or the precision curves."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | None]
    images: Count = 0
    auroc: Fraction | None = None
    average_precision: Fraction | None = None
    balanced_accuracy: Fraction | None = None
    brier: Annotated[StrictFloat, Field(ge=0, le=2)] | None = None
    sensitivity: Fraction | None = None
    specificity: Fraction | None = None
    sensitivity_at_specificity: Fraction | None = None
    specificity_at_sensitivity: Fraction | None = None
    threshold: Fraction | None = None
    unknown_rate: Fraction | None = None
    intervals: dict[str, tuple[Number, Number]] = Field(default_factory=dict)
    per_class: list[_ClassRow] = Field(default_factory=list)
    confusion: list[list[Count]] | None = None
    precision: dict[str, list[StrictFloat | None]] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> _Split:
        there = [name for name in main_metrics() if name in self.__pydantic_extra__]  # None: nothing to measure
        if not there:
            raise ValueError("a split needs its main metric, such as accuracy or map")
        if not self.per_class and there[0] in ("accuracy", "map", "miou"):
            raise ValueError("per_class is missing")
        sides = {len(self.confusion or []), *map(len, self.confusion or [])}
        if self.confusion is not None and sides != {len(self.per_class)}:
            raise ValueError("the confusion matrix must be as large as the number of classes")
        return self


class _Parameters(BaseModel):
    learning: Count
    total: Count


class _Metrics(BaseModel):
    best_epoch: Count | None = None
    probe: Number | None = None
    epochs: Count = 0
    seconds: Number = 0
    peak_bytes: Count = 0
    joules: Number | None = None
    device: StrictStr = ""
    precision: StrictStr = ""
    parameters: _Parameters | None = None
    backbone: StrictStr = ""
    prompt: StrictStr
    tuning: StrictStr
    head: StrictStr = ""
    data: StrictStr = ""
    artifact_bytes: Count = 0
    val: _Split | None = None
    test: _Split | None = None


class _Seeds(BaseModel):
    """An accuracy over several seeds."""

    mean: Number
    spread: Number
    seeds: list[Number] = Field(min_length=1)


class _Shots(_Seeds):
    shots: Count


class _FewShot(BaseModel):
    protocol: Literal["few-shot"]
    rows: list[_Shots]


class _BaseToNew(BaseModel):
    protocol: Literal["base-to-new"]
    base: _Seeds
    new: _Seeds
    harmonic_mean: Number


class _Target(_Seeds):
    data: StrictStr


class _Transfer(BaseModel):
    protocol: Literal["transfer"]
    data: StrictStr
    source: _Seeds
    rows: list[_Target]
    average: Number


_METRICS = TypeAdapter[Any](_Metrics)
_SPLIT = TypeAdapter[Any](_Split)
_PROTOCOL = TypeAdapter[Any](Annotated[_FewShot | _BaseToNew | _Transfer, Field(discriminator="protocol")])


def read_metrics(file: Path) -> dict[str, Any]:
    """Read the metrics.json of a finished run.

    Raises:
        UserError: it cannot be read, or is damaged.

    >>> read_metrics(Path("no/such/metrics.json"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no file no/such/metrics.json; give the same command again
    """
    return _read(file, _METRICS)


def read_split(file: Path) -> dict[str, Any]:
    """Read the metrics of one split, of methods without training; see `read_metrics`."""
    return _read(file, _SPLIT)


def read_protocol(file: Path) -> dict[str, Any]:
    """Read the result of a protocol from the file of that name; see `read_metrics`."""
    found = _read(file, _PROTOCOL)
    if found["protocol"] != file.stem:
        raise UserError(f"{file} is a result of {found['protocol']}; remove it, and {AGAIN}")
    return found


def _read(file: Path, form: TypeAdapter[Any]) -> dict[str, Any]:
    tree = read_json(file, AGAIN, f"remove it, and {AGAIN}")
    try:
        form.validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:4]) or "the file"
        raise UserError(f"{file} is damaged ({place}: {first['msg'][:100]}); remove it, and {AGAIN}") from None
    found: dict[str, Any] = tree
    return found
