"""Base class and types of all configuration sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vpt.config.words import read_value, split_values

# Every setting is bounded: settings are also read from the headers of untrusted artifacts.
Place = Annotated[str, Field(max_length=4200)]  # a path or an address
Word = Annotated[str, Field(max_length=200)]
Sentence = Annotated[str, Field(max_length=1000)]
MANY = 1_000_000  # upper bound of settings that have no natural one


class Section(BaseModel):
    """Base of every section: unknown keys and infinite numbers are errors, values are immutable after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


def _listed(value: Any) -> Any:
    return [read_value(part) for part in split_values(value)] if isinstance(value, str) and "," in value else value


def _always_listed(value: Any) -> Any:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) and not isinstance(_listed(value), list) else _listed(value)


# Lists without brackets, which some shells read as a pattern: `compare=none,lora`.
LISTED = BeforeValidator(_listed)  # for a field that takes words too, such as `all`
ALWAYS_LISTED = BeforeValidator(_always_listed)  # for a field that is always a list


def short(key: str, default: str | None = None) -> BeforeValidator:
    """Accept a bare word for a section (`prompt=deep` is `prompt.kind=deep`), and a section without its kind."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if default is not None and isinstance(value, Mapping):
            return {key: default, **value}
        return value

    return BeforeValidator(expand)
