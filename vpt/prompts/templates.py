"""Texts made of class names: the templates of CLIP, one's own, and how names are cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpt.errors import UserError, nearest

SINGLE = "a photo of a {}."
NAMED = ("auto", "single", "simple", "openai")


def read_templates(setting: str) -> tuple[str, ...]:
    """The templates that `head.templates` means, each with one `{}` for the class name.

    Raises:
        UserError: a name that is not known, or a file that is missing or has a line without `{}`.

    >>> read_templates("a picture of the digit {}")
    ('a picture of the digit {}',)
    """
    if setting in ("single", "auto"):
        return (SINGLE,)
    if setting in ("simple", "openai"):
        import open_clip

        made = open_clip.SIMPLE_IMAGENET_TEMPLATES if setting == "simple" else open_clip.OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in made)
    if "{}" in setting:
        return (setting,)
    path = Path(setting)
    if not path.is_file():
        raise UserError(
            f"head.templates={setting} does not exist{nearest(setting, NAMED)}; known: {', '.join(NAMED)}, a text with "
            "{} for the class name, or a file with one such text a line"
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [line for line in lines if "{}" not in line]
    if wrong or not lines:
        raise UserError(f"{path}: every line needs {{}} for the class name{f', unlike: {wrong[0]}' if wrong else ''}")
    return tuple(lines)


def cleaned(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as words.

    >>> cleaned(["hot_dog", " T-shirt "])
    ('hot dog', 'T-shirt')
    """
    return tuple(" ".join(name.replace("_", " ").split()) for name in names)
