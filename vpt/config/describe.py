"""Descriptions of all settings: key, default and meaning, from the models that validate them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vpt.config.plugins import REGISTRIES
from vpt.config.run import RunConfig
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Described:
    """Description of a setting.

    Args:
        key: as on the command line, `train.epochs`.
        default: in YAML.
        meaning: description, with the allowed values if these are few.
        kinds: kinds of its section that have it; empty if the section has none.
        choices: the values that it may have, if some of them are enumerated.
    """

    key: str
    default: str
    meaning: str
    kinds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def described(section: str = "") -> list[Described]:
    """All settings of a run whose key is `section` or below it; equal settings of several kinds are merged.

    >>> [found] = described("train.epochs")
    >>> found.key, found.default
    ('train.epochs', 'null')
    """
    merged: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for one in _of(RunConfig, RunConfig(), "", ()):
        if not section or one.key == section or one.key.startswith(f"{section}."):
            merged.setdefault((one.key, one.default, one.meaning, one.choices), []).extend(one.kinds)
    return [Described(*fields[:3], tuple(kinds), fields[3]) for fields, kinds in merged.items()]


def _of(model: type[BaseModel], defaults: BaseModel | None, prefix: str, kinds: tuple[str, ...]) -> Iterator[Described]:
    """Yield the settings of a section.

    Args:
        defaults: the section with its defaults; None if the fields define them.
    """
    for name, field in model.model_fields.items():
        key, value = f"{prefix}{name}", getattr(defaults, name, PydanticUndefined)
        if value is PydanticUndefined:
            value = field.get_default(call_default_factory=True)
        parts = _models(field.annotation)
        by_kind = {str(part.model_fields["kind"].default): part for part in parts if "kind" in part.model_fields}
        by_kind |= _plugins(key)
        if by_kind:
            meaning = f"its kind: {', '.join(by_kind)}"
            yield Described(key, getattr(value, "kind", ""), meaning, kinds, tuple(by_kind))
        elif name != "kind" and (not parts or value is None):
            yield Described(key, _yaml(value), _meaning(field), kinds, tuple(_values(field.annotation)))
        for kind, part in by_kind.items():
            yield from _of(part, value if isinstance(value, part) else None, f"{key}.", (kind,))
        for part in parts if not by_kind else ():
            yield from _of(part, value if isinstance(value, part) else None, f"{key}.", kinds)


def _plugins(key: str) -> dict[str, type[BaseModel]]:
    """Sections added to a registry by plug-ins, by kind; without those that cannot be loaded."""
    found: dict[str, type[BaseModel]] = {}
    for registry in REGISTRIES:
        for kind in registry.kinds() if registry.key == key else ():
            with contextlib.suppress(UserError):
                section = registry.find(kind)
                if section is not None and kind not in registry.own:
                    found[kind] = section
    return found


def config_schema() -> dict[str, Any]:
    """JSON Schema of a config file, including kinds added by installed packages and by the user.

    >>> sorted(config_schema()["properties"])[:3]
    ['backbone', 'cases', 'compare']
    """
    schema = RunConfig.model_json_schema()
    fields = {
        "prompt": schema["properties"]["prompt"],
        "head": schema["properties"]["head"],
        "train.loss": schema["$defs"]["TrainConfig"]["properties"]["loss"],
    }
    for key, field in fields.items():
        for kind, section in _plugins(key).items():
            mine = section.model_json_schema(ref_template=f"#/$defs/{kind}/$defs/{{model}}")
            mine["properties"]["kind"] = {"const": kind, "default": kind, "title": "Kind", "type": "string"}
            schema["$defs"][kind] = mine
            own = field.pop("$ref", None)
            field.setdefault("oneOf", [{"$ref": own}] if own else []).append({"$ref": f"#/$defs/{kind}"})
            if "discriminator" in field:
                field["discriminator"]["mapping"][kind] = f"#/$defs/{kind}"
    return schema


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The section models of a field, including those inside of unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, dict, tuple):
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _meaning(field: FieldInfo) -> str:
    description, choices = field.description or "", _choices(field.annotation)
    if all(choice in description for choice in choices):
        return description
    return "; ".join(filter(None, [description, f"one of {', '.join(choices)}"]))


def _choices(annotation: Any) -> list[str]:
    """The allowed values of a field if they are enumerated, else an empty list."""
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []


def _values(annotation: Any) -> Iterator[str]:
    """The enumerated values of a field, also those inside of unions and lists."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from _choices(annotation)
    else:
        for part in get_args(annotation):
            yield from _values(part)
