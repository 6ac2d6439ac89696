"""Results as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from vpt.data.decode import BadImage
from vpt.inference.result import Result
from vpt.utils.errors import UserError


def to_json(value: Any) -> bytes:
    """Encode as JSON in UTF-8. Lone surrogates, which UTF-8 does not support, are escaped.

    >>> to_json({"name": "caf\\xe9 \\ud800"})
    b'{"name":"caf\\xc3\\xa9 \\\\ud800"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Json(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return to_json(content)


def row_of(answer: Any, image: str, task: str, top: int, least: float) -> dict[str, Any]:
    """Result of a task for an image as plain values, or its error.

    Args:
        answer: a result or an error.
        image: name of the image.
        task: name of the task.
        top: maximum number of classes.
        least: minimum score of boxes.
    """
    named = {"task": task, "image": image}
    match answer:
        case BadImage():
            return {**named, "error": answer.reason}
        case UserError():
            return {**named, "error": str(answer)}
        case Result():
            return {**answer.above(least).to_dict(top), **named}
        case _:
            raise TypeError(f"{type(answer).__name__} is not a result")
