"""Charts as inline SVG: text in the page's font and colours by CSS class, for light and dark themes and for print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
WHOLE = ("epoch", "step", "layer")  # counts: ticks are whole numbers
TONES = 8  # distinguishable colours; further lines repeat them, dashed

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name in the legend, points by x, colour, and whether it is drawn faintly."""

    name: str
    points: Sequence[Point]
    tone: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption and legend, for the macro `figure` of parts.html."""

    title: str
    drawing: Markup
    legend: Sequence[tuple[str, ...]] = ()  # CSS classes of a swatch, its label, and optionally its CSS style
    text: str = ""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(0, 34)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((each * power for each in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / raw)))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Label of a tick.

    >>> number(0.30000000000000004), number(12000.0), number(1e-05)
    ('0.3', '12,000', '1e-05')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: str,
    *,
    percent: bool = False,
    from_zero: bool = False,
    span: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    text: str = "",
) -> Chart:
    """A line chart.

    Args:
        title: names the quantity on y.
        lines: those without points are left out.
        x: name of the x axis.
        percent: y is a fraction, shown in percent.
        from_zero: y starts at zero.
        span: range of y; default: that of the points.
        mark: a position on x, and its label.
        text: a sentence under the chart.
    """
    lines = [line for line in lines if line.points]
    xs = [point[0] for line in lines for point in line.points]
    ys = [point[1] for line in lines for point in line.points if math.isfinite(point[1])]
    if not ys:
        return Chart(title, Markup(""), text="nothing was logged")
    low, high = span or (0.0 if from_zero else min(ys), max(ys))
    if high == low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    if span is None:
        low, high = (low if from_zero else low - 0.04 * (high - low)), high + 0.04 * (high - low)
    frame = Frame(min(xs), max(xs), low, high)
    parts = [frame.axes(x, percent)]
    if mark is not None:
        parts.append(frame.upright(*mark, high=sum(ys) / len(ys) < (low + high) / 2))
    parts += [frame.line(line) for line in sorted(lines, key=lambda line: not line.faint)]
    described = "; ".join(f"{line.name}: {_course(line.points, percent)}" for line in lines)
    legend = [(_tone(line), line.name) for line in lines] if len(lines) > 1 else []
    return Chart(title, picture(f"{title}, by {x}. {described}", parts), legend, text)


@dataclass(frozen=True)
class Frame:
    """Maps values of x and y to positions in the drawing."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: float = WIDTH
    height: float = HEIGHT

    def at(self, x: float, y: float) -> Point:
        """Position of a point in the drawing.

        >>> Frame(0, 1, 0, 1).at(0, 0)
        (46.0, 206.0)
        """
        wide, tall = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        across = (x - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        up = (y - self.y0) / (self.y1 - self.y0)
        return LEFT + wide * across, TOP + tall * (1 - up)

    def axes(self, x: str, percent: bool = False, below: bool = True) -> Markup:
        """Grid lines, their labels, and the name of the x axis."""
        parts = []
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        for value in ticks(self.y0, self.y1, 4):
            _, place = self.at(self.x0, value)
            label = f"{100 * value:.4g}%" if percent else number(value)
            parts.append(tag("path", d=f"M{LEFT} {place:.1f}H{right}", class_="grid"))
            parts.append(tag("text", label, x=LEFT - 6, y=f"{place + 4:.1f}", class_="end"))
        whole = x in WHOLE and self.x1 - self.x0 >= 1
        for value in ticks(self.x0, self.x1, 6):
            if whole and value % 1:
                continue
            place, _ = self.at(value, self.y0)
            parts.append(tag("text", number(value), x=f"{place:.1f}", y=bottom + 15, class_="middle"))
        parts.append(tag("path", d=f"M{LEFT} {bottom}H{right}", class_="axis"))
        if below:
            parts.append(tag("text", x, x=(LEFT + right) / 2, y=bottom + 30, class_="middle name"))
        return Markup("").join(parts)

    def line(self, line: Line) -> Markup:
        """A line through its points; dots if there are few."""
        places = [self.at(*point) for point in line.points if math.isfinite(point[1])]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts = [tag("path", d=path, class_=f"line {_tone(line)}")]
        if len(places) <= 40 and not line.faint:
            dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
            parts.append(tag("path", d=dots, class_=f"dots {_tone(line)}"))
        return Markup("").join(parts)

    def upright(self, x: float, text: str, high: bool = False) -> Markup:
        """A dotted vertical line at x with a label at the bottom, or at the top if the lines of the chart lie low."""
        place, _ = self.at(x, self.y0)
        bottom = self.height - BOTTOM
        late = place > self.width * 0.6
        y = TOP + 12 if high else bottom - 6
        label = tag("text", text, x=f"{place + (-5 if late else 5):.1f}", y=y, class_="halo end" if late else "halo")
        return tag("path", d=f"M{place:.1f} {TOP}V{bottom}", class_="mark") + label


def picture(text: str, parts: Iterable[Markup], width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """An SVG that fills its column; `text` describes it for screen readers."""
    inside = Markup("").join(parts)
    return tag("svg", inside, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=text)


def tag(name: str, content: str | Markup | None = None, /, **attributes: str | float | None) -> Markup:
    """An SVG element, everything escaped. `class_` is class, `_` becomes `-`; attributes that are None are left out.

    >>> tag("text", "a<b", x=1, class_="end")
    Markup('<text x="1" class="end">a&lt;b</text>')
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else f"{value:g}")}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}/>" if content is None else f"<{name}{given}>{escape(content)}</{name}>")


def rectangle(text: str, x: float, y: float, wide: float, high: float, **attributes: str) -> Markup:
    """A rectangle with a tooltip; `attributes` as in `tag`.

    >>> rectangle("cat", 1, 2, 3.456, 4, class_="cell")
    Markup('<rect x="1.00" y="2.00" width="3.46" height="4.00" class="cell"><title>cat</title></rect>')
    """
    x_, y_, wide_, high_ = (f"{value:.2f}" for value in (x, y, wide, high))
    return tag("rect", tag("title", text), x=x_, y=y_, width=wide_, height=high_, **attributes)


def tone(index: int) -> str:
    """CSS classes of a colour; after the last one they repeat, dashed.

    >>> tone(1), tone(9)
    ('t1', 't1 dashed')
    """
    return f"t{index % TONES}" + (" dashed" if index // TONES % 2 else "")


def _tone(line: Line) -> str:
    return tone(line.tone) + (" faint" if line.faint else "")


def _course(points: Sequence[Point], percent: bool) -> str:
    shown = [f"{100 * y:.1f}%" if percent else f"{y:.4g}" for y in (points[0][1], points[-1][1])]
    return f"from {shown[0]} to {shown[1]}" if len(points) > 1 else shown[0]
