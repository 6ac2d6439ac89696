"""Checks before training that an artifact can store the settings and class names of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vpt.config.run import RunConfig
from vpt.utils.errors import UserError
from vpt.utils.strict_json import is_clean
from vpt.utils.tensor_io import MAX_TEXT

MAX_CLASSES = 100_000


def refuse_unstorable(config: RunConfig, classes: Sequence[str], multilabel: bool = False) -> None:
    """Refuse settings and class names that cannot be stored in the header of an artifact, before training starts.

    Args:
        config: settings of the run.
        classes: class names.
        multilabel: whether an image may have several, which files of predictions join by |.

    Raises:
        UserError: too many classes, or a name or setting that is too long or contains control characters;
            with several labels an image also |.

    >>> refuse_unstorable(RunConfig(), ["cat", "dog"])
    """
    if len(classes) > MAX_CLASSES:
        raise UserError(f"the data has {len(classes)} classes; the maximum is {MAX_CLASSES}")
    for name in classes:
        if not name.strip() or len(name) > 1000 or not is_clean(name):
            raise UserError(
                f"the class name '{ascii(name)[1:61]}' is empty, has more than 1000 characters, or contains control "
                "characters or bytes that are not UTF-8; rename the class"
            )
        if multilabel and "|" in name:
            raise UserError(
                f"the class name '{name[:60]}' contains |, which separates the labels of an image in files of "
                "predictions; rename the class"
            )
    for key, value in _texts(config.model_dump(mode="json"), ""):
        if not is_clean(value):
            raise UserError(
                f"{key}={ascii(value)[1:61]} contains control characters or bytes that are not UTF-8; rename it"
            )
    if sum(map(len, classes)) > MAX_TEXT // 2:
        raise UserError(f"the class names have more than {MAX_TEXT // 2} characters in total; shorten them")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All strings in a tree of settings, with their keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, f"{key}.{name}" if key else str(name))
