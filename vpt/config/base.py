"""Base class and types of all configuration sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


def short(key: str, default: str | None = None) -> BeforeValidator:
    """Accept a bare word for a section (`prompt=deep` is `prompt.kind=deep`), and a section without its kind."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if default is not None and isinstance(value, Mapping):
            return {key: default, **value}
        return value

    return BeforeValidator(expand)
