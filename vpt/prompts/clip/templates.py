"""Text templates of class names: those of CLIP, custom ones, and normalisation of class names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpt.config.templates import NAMED, names_a_file
from vpt.utils.errors import UserError, nearest
from vpt.utils.strict_json import is_clean

SINGLE = "a photo of a {}."
MOST, LONGEST = 10_000, 1000  # maximum lines of a file and characters of a line


def read_templates(setting: str | Sequence[str]) -> tuple[str, ...]:
    """The templates selected by `head.templates`, each with one `{}` for the class name.

    Raises:
        UserError: an unknown name, a text without `{}`, or a file that is missing or cannot be read.

    >>> read_templates("a picture of the digit {}")
    ('a picture of the digit {}',)
    """
    if not isinstance(setting, str):
        return _with_places(setting, "head.templates")
    if setting in ("single", "auto"):
        return (SINGLE,)
    if setting in ("simple", "openai"):
        import open_clip

        made = open_clip.SIMPLE_IMAGENET_TEMPLATES if setting == "simple" else open_clip.OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in made)
    if not names_a_file(setting):
        return (setting,)
    path = Path(setting)
    if not path.is_file():
        raise UserError(
            f"head.templates={setting} does not exist{nearest(setting, NAMED)}; known: {', '.join(NAMED)}, a text with "
            "{} for the class name, or a file with one such text per line"
        )
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST * (LONGEST + 1))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"cannot read the templates {path}: {reason}") from None
    # CLIP_benchmark writes {c} for the class name.
    lines = [line.strip().replace("{c}", "{}") for line in text.splitlines() if line.strip()]
    return _with_places(lines, str(path))


def _with_places(lines: Sequence[str], where: str) -> tuple[str, ...]:
    """Check that all texts have a place for the class name."""
    wrong = [line for line in lines if "{}" not in line or len(line) > LONGEST or not is_clean(line)]
    if wrong or not 1 <= len(lines) <= MOST:
        shown = f", unlike: {ascii(wrong[0])[1:81]}" if wrong else ""
        raise UserError(f"{where}: give up to {MOST} lines, each with {{}} for the class name{shown}")
    return tuple(lines)


def cleaned(names: Sequence[str]) -> tuple[str, ...]:
    """Class names with underscores and repeated spaces replaced by single spaces.

    >>> cleaned(["hot_dog", " T-shirt "])
    ('hot dog', 'T-shirt')
    """
    return tuple(" ".join(name.replace("_", " ").split()) for name in names)
