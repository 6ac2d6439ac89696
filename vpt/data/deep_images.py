"""Messages about images deeper than 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vpt.config.data import LEGACY, Window
from vpt.data.datasets.entries import listed, number_of
from vpt.data.intensity_window import Depth, shown


class Deep(NamedTuple):
    """An image deeper than 8 bits: its split, its name, and the range of its values."""

    split: str
    name: str
    depth: Depth


def explained(window: Window, deep: Sequence[Deep]) -> list[str]:
    """Messages about what a window does to images deeper than 8 bits; empty without such images.

    >>> explained((0.0, 4095.0), [Deep("train", "a.png", Depth(0, 4000, True))])
    ['1 image deeper than 8 bits, values from 0 to 4000: scaled to 8 bits with data.window=[0, 4095]']
    """
    if not deep:
        return []
    low, high = min(one.depth.low for one in deep), max(one.depth.high for one in deep)
    count, values = number_of(len(deep), "image"), f"values from {low:g} to {high:g}"
    note = f"{count} deeper than 8 bits, {values}: scaled to 8 bits with "
    if window in LEGACY:
        note += "the whole range of 16 bits, or else each with its own (as in versions without data.window)"
    elif window == "header":
        note += "the window that each file states (data.window=header)"
        without = [one for one in deep if not one.depth.header]
        if without:
            return [note, f"warning: {_named(without)} of them state none and are scaled by their own values"]
    else:
        note += f"data.window={shown(window)}"
    return [note, *_doubts(window, deep)]


def _doubts(window: Window, deep: Sequence[Deep]) -> list[str]:
    """Warnings: values that are clipped, or a window far wider than the values."""
    if window == "header":
        return []
    if isinstance(window, str):
        dim = [one for one in deep if one.depth.whole and one.depth.low >= 0 and 0 < one.depth.high < 65535 / 16]
        if not dim:
            return []
        levels = int(max(one.depth.high for one in dim) // 257) + 1
        return [
            f"warning: {_named(dim)} of them use less than 1/16 of the range of 16 bits, at most "
            f"{number_of(levels, 'grey level')} of 256; for 12-bit images, for example, set data.window=[0, 4095]"
        ]
    cut = [one for one in deep if one.depth.low < window[0] or one.depth.high > window[1]]
    if not cut:
        return []
    low, high = min(one.depth.low for one in cut), max(one.depth.high for one in cut)
    return [
        f"warning: {_named(cut)} of them have values outside data.window={shown(window)}, from {low:g} to {high:g}, "
        "which are clipped; if they matter, train with a wider window"
    ]


def _named(deep: Sequence[Deep]) -> str:
    return f"{len(deep)} ({listed([one.name for one in deep], 3)})"
