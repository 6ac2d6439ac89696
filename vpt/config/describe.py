"""Every setting in words: its key, its default, what it means; from the models that check it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vpt.config.run import RunConfig


@dataclass(frozen=True)
class Described:
    """A setting.

    Args:
        key: as on the command line, `train.epochs`.
        default: as YAML has it.
        meaning: in words, with the values it may take if these are few.
        kinds: of its section that have it; empty where the section has none.
    """

    key: str
    default: str
    meaning: str
    kinds: tuple[str, ...] = ()


def described(section: str = "") -> list[Described]:
    """All settings of a run whose key is `section` or lies in it; equal settings of several kinds are one.

    >>> [found] = described("train.epochs")
    >>> found.key, found.default
    ('train.epochs', 'null')
    """
    merged: dict[tuple[str, str, str], list[str]] = {}
    for one in _of(RunConfig, RunConfig(), "", ()):
        if not section or one.key == section or one.key.startswith(f"{section}."):
            merged.setdefault((one.key, one.default, one.meaning), []).extend(one.kinds)
    return [Described(*told, kinds=tuple(kinds)) for told, kinds in merged.items()]


def _of(model: type[BaseModel], defaults: BaseModel | None, prefix: str, kinds: tuple[str, ...]) -> Iterator[Described]:
    """The settings of a section.

    Args:
        defaults: the section as it is when nothing is said; None where its own fields tell.
    """
    for name, field in model.model_fields.items():
        key, value = f"{prefix}{name}", getattr(defaults, name, PydanticUndefined)
        if value is PydanticUndefined:
            value = field.get_default(call_default_factory=True)
        parts = _models(field.annotation)
        many = [part for part in parts if "kind" in part.model_fields]
        if many:
            names = [str(part.model_fields["kind"].default) for part in many]
            yield Described(key, getattr(value, "kind", ""), f"its kind: {', '.join(names)}", kinds)
        elif name != "kind" and (not parts or value is None):
            yield Described(key, _yaml(value), _meaning(field), kinds)
        for part in parts:
            kind = (str(part.model_fields["kind"].default),) if part in many else kinds
            yield from _of(part, value if isinstance(value, part) else None, f"{key}.", kind)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections a field may hold, looked for inside of unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, dict, tuple):
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _meaning(field: FieldInfo) -> str:
    told, choices = field.description or "", _choices(field.annotation)
    if all(choice in told for choice in choices):
        return told
    return "; ".join(filter(None, [told, f"one of {', '.join(choices)}"]))


def _choices(annotation: Any) -> list[str]:
    """The few values that a field takes; empty where it takes others too."""
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []
