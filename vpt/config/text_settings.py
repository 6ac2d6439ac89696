"""Settings that are texts: a word such as 1, 007 or no is a name there, whatever YAML makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from vpt.config.run import RunConfig


def as_texts(
    pairs: list[tuple[str, Any]], written: list[str], shorthand: Mapping[tuple[str, ...], str]
) -> list[tuple[str, Any]]:
    """Settings with the text that was written in place of a number or truth value, where the setting is a text.

    Args:
        pairs: full names and values.
        written: the text of each value.
        shorthand: sections that take a word, as in data=2024.

    >>> as_texts([("data.positive", 1), ("train.epochs", 1), ("name", False)], ["1", "1", "no"], {})
    [('data.positive', '1'), ('train.epochs', 1), ('name', 'no')]
    """
    return [
        (key, text.strip())
        if isinstance(value, int | float) and (tuple(key.split(".")) in shorthand or is_text(key))
        else (key, value)
        for (key, value), text in zip(pairs, written, strict=True)
    ]


def is_text(key: str) -> bool:
    """Whether a setting takes texts or paths and nothing else; False for settings of a kind, as of a prompt.

    >>> is_text("data.positive"), is_text("train.epochs"), is_text("train.seed"), is_text("no.such")
    (True, False, False, False)
    """
    model: Any = RunConfig
    *parents, last = key.split(".")
    for part in parents:
        field = model.model_fields.get(part)
        model = None if field is None else field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
    field = model.model_fields.get(last)
    found = set() if field is None else _plain(field.annotation)
    return bool(found) and found <= {str, Path}


def _plain(annotation: Any) -> set[Any]:
    """The types of an annotation, without its conditions and None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_plain, get_args(annotation)))
    return set() if annotation in (None, type(None)) else {annotation}
