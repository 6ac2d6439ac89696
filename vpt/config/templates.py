"""The setting `head.templates`: a name, a text, several texts, or a file of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vpt.config.base import Place, Sentence

NAMED = ("auto", "single", "simple", "openai")
Templates = Place | Annotated[list[Sentence], Field(min_length=1, max_length=10_000)]


def names_a_file(templates: str | list[str]) -> bool:
    """Whether the texts are in a file that has to be opened.

    >>> [names_a_file(setting) for setting in ("openai", "a photo of a {}.", ["a {}."], "mine.txt")]
    [False, False, False, True]
    """
    return isinstance(templates, str) and templates not in NAMED and "{}" not in templates
