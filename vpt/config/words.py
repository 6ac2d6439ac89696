"""Values as they are written on the command line, `key=value`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from vpt.utils.safe_yaml import BadYaml, parse_yaml

QUOTED = ("{", "[", '"', "'")  # the first character of a value that has an end of its own


def word(key: str, value: object) -> str:
    """A `key=value` word that gives back any value as it is: numbers, lists, and texts, paths above all.

    >>> word("data", "photos"), word("out", Path("2024"))
    ('data=photos', 'out="2024"')
    >>> from vpt.config.overrides import parse_overrides
    >>> parse_overrides([word("out", Path("2024")), word("prompt.layers", [0, 1])])
    {'out': '2024', 'prompt': {'layers': [0, 1]}}
    """
    if isinstance(value, str | Path):
        text = str(value)
        if text[:1] not in QUOTED and read_value(text) == text:
            return f"{key}={text}"
    return f"{key}={json.dumps(value, default=str)}"


def split_values(text: str) -> list[str]:
    """Values between commas; a comma inside brackets or quotes belongs to its value.

    >>> split_values('all,[0, 1],{a: [2, 3], b: "4, 5"}')
    ['all', '[0, 1]', '{a: [2, 3], b: "4, 5"}']
    """
    found, depth, quote, before = [""], 0, "", ","
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and before in ",[{:":  # elsewhere it is an apostrophe
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth = max(0, depth - 1)
        elif sign == "," and depth == 0:
            found.append("")
            before = sign
            continue
        found[-1] += sign
        before = sign if sign.strip() else before
    return found


def read_value(text: str) -> Any:
    """A value as YAML reads it, but for what people do not mean on a command line: a comment, a mapping or a list
    without brackets, a date. A path may look like any of them.

    >>> [read_value(text) for text in ("3", "1e-3", "[0, 1]", "a: b", '"3"')]
    [3, 0.001, [0, 1], 'a: b', '3']
    """
    text = text.strip()
    bare = text[:1] not in QUOTED
    if not bare:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)  # what `word` wrote; YAML knows fewer numbers, and splits signs such as emoji
    try:
        value = parse_yaml(text)
    except BadYaml:
        return text
    if bare and (text[:1] == "#" or not isinstance(value, bool | int | float | None)):
        value = text
    if bare and isinstance(value, str) and _is_number(value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.lower().strip("+-") not in ("nan", "inf", "infinity")
