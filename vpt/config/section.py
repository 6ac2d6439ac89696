"""What every section of a configuration is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def short(key: str, default: str | None = None) -> BeforeValidator:
    """Let a bare word stand for a section (`prompt=deep` is `prompt.kind=deep`), and a section lack its kind."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if default is not None and isinstance(value, Mapping):
            return {key: default, **value}
        return value

    return BeforeValidator(expand)
