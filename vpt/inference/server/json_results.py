"""Results as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from vpt.data.decode import BadImage
from vpt.inference.results import Classification, Detections
from vpt.utils.errors import UserError


def to_json(value: Any) -> bytes:
    """JSON in UTF-8. Text with lone surrogates, which is no UTF-8, has them as escapes.

    >>> to_json({"name": "caf\\xe9 \\ud800"})
    b'{"name":"caf\\xc3\\xa9 \\\\ud800"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


def row_of(answer: Any, image: str, task: str, top: int, least: float) -> dict[str, Any]:
    """What an image shows to a task, or what went wrong.

    Args:
        answer: a result, or the error in its place.
        image: its name.
        task: its name.
        top: how many classes are named at most.
        least: boxes with lower scores are left out.
    """
    named = {"task": task, "image": image}
    match answer:
        case BadImage():
            return {**named, "error": answer.reason}
        case UserError():
            return {**named, "error": str(answer)}
        case Detections():
            return {**answer.above(least).to_dict(), **named}
        case Classification():
            plain = answer.to_dict()
            return {**plain, "scores": dict(list(plain["scores"].items())[:top]), **named}
        case _:
            raise TypeError(f"{type(answer).__name__} is no answer")
