"""What the header of an artifact can hold: checked before training, so that no run ends without a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vpt.config.run import RunConfig
from vpt.utils.errors import UserError
from vpt.utils.strict_json import is_clean
from vpt.utils.tensor_io import MAX_TEXT

MAX_CLASSES = 100_000


def refuse_unstorable(config: RunConfig, classes: Sequence[str]) -> None:
    """Refuse what could not stand in the header of an artifact, before a training begins.

    Args:
        config: of the run.
        classes: names of the classes.

    Raises:
        UserError: too many classes, or a name or setting that is too long or holds control characters, by name.

    >>> refuse_unstorable(RunConfig(), ["cat", "dog"])
    """
    if len(classes) > MAX_CLASSES:
        raise UserError(f"the data have {len(classes)} classes; {MAX_CLASSES} are the most")
    for name in classes:
        if not name.strip() or len(name) > 1000 or not is_clean(name):
            raise UserError(
                f"the class name '{ascii(name)[1:61]}' is empty, has more than 1000 characters, or holds control "
                "characters or bytes that are no UTF-8; rename the class"
            )
    for key, value in _texts(config.model_dump(mode="json"), ""):
        if not is_clean(value):
            raise UserError(
                f"{key}={ascii(value)[1:61]} holds control characters or bytes that are no UTF-8; rename what it names"
            )
    if sum(map(len, classes)) > MAX_TEXT // 2:
        raise UserError(f"the names of the classes have more than {MAX_TEXT // 2} characters together; shorten them")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts in a tree of settings, with their keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, f"{key}.{name}" if key else str(name))
