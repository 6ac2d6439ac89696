"""Results of benchmarks, and how they are written as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *body])


def words_of(settings: Iterable[str]) -> str:
    """Settings as code; of a key that is given twice the last one holds."""
    last = {word.partition("=")[0]: word for word in settings}
    return " ".join(f"`{word}`" for word in last.values())
