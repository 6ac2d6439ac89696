"""Headers of the files that vpt writes, validated field by field.

Such a file is untrusted. Its header is typed and bounded here, and no file that it names is opened; see
vpt/models/trusted_settings.py for the backbone that an artifact is loaded on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vpt.config import Prompt, RunConfig, key_of
from vpt.config.storable import MAX_CLASSES
from vpt.data.normalization import Preprocess
from vpt.utils.errors import FileError
from vpt.utils.tensor_io import TensorFile
from vpt.utils.version import DISTRIBUTION, own_version

KINDS = {"vpt artifact": "an artifact", "vpt prompt": "a saved prompt", "vpt checkpoint": "a checkpoint"}
VERSION = "[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}"
CHECKPOINT = "checkpoint.safetensors"  # file name in a run folder
MAX_RESIZED = 8192  # maximum short side in pixels of an image before the center crop

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Version = Annotated[str, Field(pattern=f"^{VERSION}$")]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Measured = Annotated[
    # NaN if a metric is undefined, for example of a class without images.
    float, Field(allow_inf_nan=True), AfterValidator(lambda value: _refuse_infinite(value))
]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Channels = tuple[
    Annotated[float, Field(ge=-100, le=100)],
    Annotated[float, Field(ge=-100, le=100)],
    Annotated[float, Field(ge=-100, le=100)],
]
Spread = tuple[
    Annotated[float, Field(ge=1e-3, le=100)],
    Annotated[float, Field(ge=1e-3, le=100)],
    Annotated[float, Field(ge=1e-3, le=100)],
]


def _refuse_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("input should be a finite number")
    return value


class Header(BaseModel):
    """Base class of all headers: unknown keys are errors, types are strict, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    KIND: ClassVar[str]
    FORMAT: ClassVar[int | None] = None


class BackboneHeader(Header):
    """The backbone that a file belongs to."""

    name: Annotated[str, Field(min_length=1, max_length=4200)]
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PreprocessHeader(Header):
    """Preprocessing that the backbone expected."""

    size: int = Field(ge=1, le=4096)
    mean: Channels
    std: Spread
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    crop_pct: float = Field(ge=0.05, le=2)

    def plain(self) -> Preprocess:
        """Convert to the type used for computation."""
        return Preprocess(**dict(self))


class ArtifactHeader(Header):
    """Header of an artifact."""

    KIND: ClassVar[str] = "vpt artifact"
    FORMAT: ClassVar[int | None] = 2  # 1: the fingerprint covered only weights, without position embeddings

    kind: Literal["vpt artifact"]
    format: Literal[2]
    vpt: Version
    config: RunConfig
    classes: Annotated[list[Name], Field(min_length=1, max_length=MAX_CLASSES)]
    multilabel: bool
    backbone: BackboneHeader
    preprocess: PreprocessHeader
    metrics: Annotated[
        dict[Name, Annotated[dict[Name, Measured], Field(max_length=1000)]],  # split -> metric -> value
        Field(max_length=10),
    ]

    @model_validator(mode="after")
    def _fits(self) -> ArtifactHeader:
        if len(set(self.classes)) != len(self.classes) or not all(map(str.strip, self.classes)):
            raise ValueError("classes: a name is empty or appears twice")
        if self.backbone.name != self.config.backbone.name:
            raise ValueError("backbone.name: it differs from config.backbone.name")
        if self.preprocess.size > MAX_RESIZED * (self.config.data.crop_pct or self.preprocess.crop_pct):
            raise ValueError(
                f"crop_pct: images would be resized to more than {MAX_RESIZED} pixels before they are cropped"
            )
        return self


class PromptHeader(Header):
    """Header of a file from `Wrapped.save`: a prompt in the user's own network."""

    KIND: ClassVar[str] = "vpt prompt"
    FORMAT: ClassVar[int | None] = 2

    kind: Literal["vpt prompt"]
    format: Literal[2]
    vpt: Version
    prompt: Prompt | None
    head: bool
    image_size: int = Field(ge=1, le=8192)
    backbone: BackboneHeader


class ProgressHeader(Header):
    """Progress of a run when its checkpoint was written; see training/checkpoint.py for the meaning of each field."""

    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    round: Annotated[int, Field(ge=0, le=1)] = 0  # of version 0.1: the prompt was pruned and training has restarted
    first_step: Count = 0  # of version 0.1: the first step after pruning
    loss_sum: Finite = 0.0
    correct: Finite | None = 0.0
    seen: Count = 0
    best_score: Measured | None = None
    best_epoch: Count | None = None
    probe: Measured | None = None
    stale: Count = 0
    history: list[dict[Name, Count | Measured | dict[Name, Finite]]] = Field(default_factory=list, max_length=1_000_000)
    finished: bool = False
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    peak_bytes: Count = 0
    joules: Annotated[float, Field(ge=0, le=1e15)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ProgressHeader:
        for row in self.history:
            if type(row.get("epoch")) is not int or any(isinstance(row[key], dict) != (key == "lr") for key in row):
                raise ValueError("history: an entry has an unexpected form")
        if self.first_step > self.step:
            raise ValueError("first_step: it is greater than step")
        return self


class IdentityHeader(Header):
    """Settings, data and backbone that a checkpoint belongs to; they are only compared, never used."""

    settings: dict[str, Any]
    data: Name
    backbone: Name
    pixels: Name | None = None  # missing in older files


class CheckpointHeader(Header):
    """Header of a checkpoint."""

    KIND: ClassVar[str] = "vpt checkpoint"

    kind: Literal["vpt checkpoint"]
    progress: ProgressHeader
    scaler: Annotated[dict[Name, Count | Finite], Field(max_length=20)]
    identity: IdentityHeader


H = TypeVar("H", bound=Header)


def parse_header(model: type[H], file: TensorFile) -> H:
    """Parse and validate the header of an open file.

    Args:
        model: type of the header.
        file: the file.

    Raises:
        FileError: a file of another kind or format, or a header with an invalid field, which the message names.
    """
    tree = file.tree
    if not isinstance(tree, dict) or tree.get("kind") != model.KIND:
        kind = tree.get("kind") if isinstance(tree, dict) else None
        found = f"a {kind}" if isinstance(kind, str) and kind in KINDS else "a file of another kind"
        raise FileError(file.path, f"is {found}, not {KINDS[model.KIND]}")
    number = tree.get("format")
    if model.FORMAT is not None and type(number) is int and number > 0 and number != model.FORMAT:
        raise FileError(file.path, _other_format(number, model.FORMAT, tree))
    try:
        return model.model_validate_json(file.text, strict=True)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        place, why = key_of([str(part) for part in item["loc"]]), _reason(item)
        if item["type"] not in ("plugin_not_named", "unknown_kind"):  # these messages already say what helps
            why += _writer(tree)
        full = f"{file.path} cannot be used: {_field(ascii(place)[1:-1][:100])}: {why}"
        raise FileError(file.path, f"cannot be used: {_field(_known(model, place))}: {why}", full) from None


def _reason(item: Mapping[str, Any]) -> str:
    """Describe the error in a field without its value."""
    if item["type"] in ("union_tag_invalid", "unknown_kind"):
        return "its kind is unknown to this version of vpt; if a package adds it, install that"
    if item["type"] == "extra_forbidden":
        return "the field is unknown to this version of vpt"
    text = item["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _known(model: type[Header], place: str) -> str:
    """Location in a header, up to the first key that is not a field name but content of the file."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    names = {name for part in parts for name in part.get("properties", {})}
    keys = [key if not key or key in names or key.isdecimal() else "..." for key in place.split(".")]
    return ".".join(keys[:8])


def _field(place: str) -> str:
    return f"its header's {place}" if place else "its header"


def _writer(tree: dict[str, Any]) -> str:
    """Name the version that wrote the file, if it is another one, and the remedy."""
    version = _version(tree)
    if version in ("", own_version()):
        return "; take another copy of it, or train again"
    return f"; it was written by vpt {version}: use that version, or train again"


def _other_format(number: int, current: int, tree: dict[str, Any]) -> str:
    if number > current:
        version = _version(tree) or "of another version"
        return f"was written by vpt {version}; install that or a newer one of {DISTRIBUTION}"
    return f"has the old format {number}, which describes its backbone incompletely; train it again"


def _version(tree: dict[str, Any]) -> str:
    """The version that wrote a header, if it is given."""
    version = tree.get("vpt")
    return version if isinstance(version, str) and re.fullmatch(VERSION, version) else ""
