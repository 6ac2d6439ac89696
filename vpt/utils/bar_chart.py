"""A chart of horizontal bars: counts by row and series, drawn with Pillow, which takes milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vpt.utils import fonts
from vpt.utils.plotting import BLUE, GREY, ORANGE

COLOURS = (BLUE, ORANGE, GREY)  # of series, in turn
MOST = 40  # rows; of more, the first and the last are shown
_WIDTH, _NAMES, _BAR, _GAP, _HEAD, _TEXT = 760, 200, 13, 7, 34, 11


def bar_chart(title: str, rows: Sequence[tuple[str, Sequence[int]]], totals: Mapping[str, int]) -> np.ndarray:
    """Counts as bars, whose lengths are fractions of the totals of their series; returns pixels (H, W, 3) uint8.

    Args:
        title: line above the bars.
        rows: name and counts of each row, in the order of `totals`.
        totals: series -> sum of its counts; series without any are left out.

    >>> bar_chart("images by class", [("cat", [3]), ("dog", [1])], {"training": 4}).shape[1]
    760
    """
    series = [number for number, total in enumerate(totals.values()) if total]
    names, sums = list(totals), list(totals.values())
    if len(rows) > MOST:
        left_out = (f"... {len(rows) - MOST} more ...", [0] * len(names))
        rows = [*rows[: MOST // 2], left_out, *rows[-MOST // 2 :]]
    longest = max((counts[at] / sums[at] for _, counts in rows for at in series), default=0) or 1
    high = _BAR * max(1, len(series)) + _GAP
    picture = Image.new("RGB", (_WIDTH, _HEAD + 22 + high * len(rows) + _GAP), "white")
    pen, font = ImageDraw.Draw(picture), fonts.font(_TEXT)
    pen.text((10, 8), title, fill="black", font=fonts.font(_TEXT + 3))
    left = 10.0
    for at in series:
        pen.rectangle((left, _HEAD + 2, left + 10, _HEAD + 12), fill=COLOURS[at % len(COLOURS)])
        text = f"{names[at]} ({sums[at]:,})"
        pen.text((left + 15, _HEAD), text, fill="black", font=font)
        left += pen.textlength(text, font=font) + 40
    for number, (name, counts) in enumerate(rows):
        top = _HEAD + 22 + number * high
        pen.text((_NAMES - 8, top + (high - _GAP) / 2), _fitting(pen, font, name), fill="black", font=font, anchor="rm")
        for place, at in enumerate(series):
            y, length = top + place * _BAR, (_WIDTH - _NAMES - 70) * counts[at] / sums[at] / longest
            if counts[at]:
                pen.rectangle((_NAMES, y + 1, _NAMES + max(1, length), y + _BAR - 2), fill=COLOURS[at % len(COLOURS)])
            if any(counts):
                pen.text((_NAMES + length + 6, y - 1), f"{counts[at]:,}", fill="#444444", font=font)
    return np.asarray(picture)


def _fitting(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, name: str) -> str:
    name = name[:100]
    short = name
    while len(short) > 1 and pen.textlength(short, font=font) > _NAMES - 18:
        name = name[:-1]
        short = f"{name}..."
    return short
