"""HTML rendering: templates that escape their values, and formatting of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vpt.config.tasks import in_percent
from vpt.training import memory_estimate

NOTHING = "–"


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its heading, and HTML."""

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Column:
    """A column of a table. `kind` is text, number (right-aligned), or text phrase (never wrapped)."""

    title: str
    kind: str = "number"


@dataclass(frozen=True)
class Cell:
    """A cell that is sorted by a number which its text does not begin with, such as 2 min 3 s."""

    text: str
    number: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table with a caption; cells are text or numbers, which are escaped, or a `Cell`.

    A sortable table gets buttons in its header.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    sortable: bool = False


def render(template: str, **values: Any) -> Markup:
    """Render a template of this package; all values except Markup are escaped.

    >>> render("note.html", text="<b>")
    Markup('<p class="note">&lt;b&gt;</p>')
    """
    return Markup(environment().get_template(template).render(**values).strip())


@cache
def environment() -> Environment:
    """The Jinja environment with the filters below."""
    made = Environment(
        loader=PackageLoader("vpt", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "count": count, "duration": duration, "size": size}
    return made


def note(text: str) -> Markup:
    """A line that says why something is not shown."""
    return render("note.html", text=text)


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction in percent.

    >>> percent(0.98607), percent(None)
    ('98.6%', '–')
    """
    return NOTHING if share is None else f"{100 * share:.{digits}f}%"


def main_score(metric: str, value: float | None) -> str:
    """A main metric, in percent if it is a fraction.

    >>> main_score("accuracy", 0.98607), main_score("r2", 0.98607)
    ('98.6%', '0.986')
    """
    return percent(value) if value is None or in_percent(metric) else f"{value:.3f}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> points(-0.0139), points(0.02), points(-0.0001)
    ('−1.4', '+2.0', '0.0')
    """
    value = round(100 * difference, digits)
    return f"{value:+.{digits}f}".replace("-", "−") if value else f"{0:.{digits}f}"


def count(number: float | None) -> str:
    """A whole number with thousands separators.

    >>> count(13450)
    '13,450'
    """
    return NOTHING if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in a readable form.

    >>> duration(5.26), duration(158), duration(3 * 3600 + 120)
    ('5.3 s', '2 min 38 s', '3 h 2 min')
    """
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.05:
        return "under 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(number: float | None) -> str:
    """Bytes in decimal units.

    >>> size(56616), size(2_780_732)
    ('57 kB', '2.78 MB')
    """
    return NOTHING if number is None else memory_estimate.size(number)
