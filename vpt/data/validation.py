"""Validation before training: decodes every image once and reports unreadable, converted and duplicate images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import PIL

from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.entries import listed, number_of
from vpt.data.decode import MAX_PIXELS, BadImage, read
from vpt.data.deep_images import Deep
from vpt.data.image_cache import Progress, threads
from vpt.data.validation_cache import Checked, Memory
from vpt.utils.errors import UserError

_SHOWN = 20


class Bad(NamedTuple):
    """An image that cannot be used."""

    split: str
    name: str
    reason: str


class Leak(NamedTuple):
    """The same pixels in two splits."""

    split: str
    name: str
    other_split: str
    other_name: str


class Clash(NamedTuple):
    """The same pixels twice with different classes."""

    name: str
    classes: tuple[str, ...]
    other_name: str
    other_classes: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`. `text()` formats it for the console.

    `formats` and `modes` count images by file format and Pillow mode; `sizes` are the (width, height) of the
    images with the fewest and the most pixels, in pixels (None without images); `notes` are the names of the
    images by conversion ("CMYK", "16-bit", "alpha", "EXIF-rotated", ...); `deep` are those deeper than 8 bits.
    `pixels` is a digest of all good images, in order, prefixed by the version of the library that decoded them.
    """

    total: int
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: tuple[tuple[int, int], tuple[int, int]] | None
    bad: tuple[Bad, ...]
    notes: dict[str, tuple[str, ...]]
    leaks: tuple[Leak, ...]
    remembered: int = 0
    deep: tuple[Deep, ...] = ()
    clashes: tuple[Clash, ...] = ()
    pixels: str = ""

    @property
    def worrying(self) -> bool:
        """Whether there is a problem that the user should see before training."""
        return bool(self.bad or self.leaks or self.clashes)

    def text(self) -> str:
        """Summary in a few lines, with the first names of each kind.

        >>> CheckReport(0, {}, {}, None, (), {}, ()).text()
        '0 images checked'
        """
        lines = [f"{number_of(self.total, 'image')} checked" + (f" ({_counts(self.formats)})" if self.formats else "")]
        if self.remembered:
            lines[0] += f", {self.remembered} of them unchanged since an earlier check"
        if self.sizes is not None:
            small, large = self.sizes
            lines.append(
                f"sizes from {small[0]}x{small[1]} to {large[0]}x{large[1]} pixels, modes {_counts(self.modes)}"
            )
        lines += [f"{len(names)} {note}: {listed(list(names), 3)}" for note, names in sorted(self.notes.items())]
        if self.leaks:
            pairs = [f"{leak.split}: {leak.name} = {leak.other_split}: {leak.other_name}" for leak in self.leaks]
            lines.append(
                f"warning: {number_of(len(pairs), 'image')} in two splits, which inflates scores: {listed(pairs, 5)}"
            )
        if self.clashes:
            pairs = [
                f"{one.name} ({_named(one.classes)}) = {one.other_name} ({_named(one.other_classes)})"
                for one in self.clashes
            ]
            lines.append(
                f"warning: {number_of(len(pairs), 'image')} with the same pixels as one of another class: "
                f"{listed(pairs, 5)}"
            )
        if self.bad:
            lines.append(f"{number_of(len(self.bad), 'image')} cannot be used:")
            lines += [f"  {bad.name}: {bad.reason}" for bad in self.bad[:_SHOWN]]
            if len(self.bad) > _SHOWN:
                lines.append(f"  and {len(self.bad) - _SHOWN} more")
        return "\n".join(lines)


def check(data: LabelledData, max_pixels: int = MAX_PIXELS, progress: Progress | None = None) -> CheckReport:
    """Decode all images of all splits in a few threads. `progress(done, total)` is called after each.

    Files with the same size and timestamps as at an earlier check are not decoded again.

    >>> check(LabelledData(("a", "b"), False, (), ())).total
    0
    """
    records = [(split, record) for split in SPLITS for record in data.split(split)]
    channels = records[0][1].channels if records else None
    memory = Memory.of([record.source for _, record in records], max_pixels, channels)

    def one(record: Record) -> Checked | BadImage:
        if problem := record.problem():
            return BadImage(record.name, problem)
        known = memory.get(record.source)
        if known is not None:
            return known
        try:
            checked = Checked.of(read(record, max_pixels, measure=True))
        except BadImage as error:
            return error
        memory.put(record.source, checked)
        return checked

    results: list[Checked | BadImage] = []
    with ThreadPoolExecutor(threads()) as pool:
        for result in pool.map(one, [record for _, record in records]):
            results.append(result)
            if progress is not None:
                progress(len(results), len(records))
    memory.save()
    return _report(records, results, memory.hits, data.classes)


def apply(data: LabelledData, report: CheckReport, on_bad: str = "error") -> LabelledData:
    """Return the data without the images in `report.bad` ("skip"), or raise an error ("error").

    Raises:
        UserError: there are bad images and on_bad is "error", listing the first twenty; or skipping them leaves a
            class without training images, or a split empty.

    >>> data = LabelledData(("a", "b"), False, (), ())
    >>> apply(data, check(data)) is data
    True
    """
    if not report.bad:
        return data
    if on_bad == "error":
        names = "\n".join(f"  {bad.name}: {bad.reason}" for bad in report.bad[:_SHOWN])
        more = f"\n  and {len(report.bad) - _SHOWN} more" if len(report.bad) > _SHOWN else ""
        raise UserError(
            f"{number_of(len(report.bad), 'image')} cannot be used; repair them, or set "
            f"data.on_bad=skip:\n"
            f"{names}{more}"
        )
    bad = {(entry.split, entry.name) for entry in report.bad}
    kept = {split: tuple(record for record in data.split(split) if (split, record.name) not in bad) for split in SPLITS}
    for split in SPLITS:
        if data.split(split) and not kept[split]:
            raise UserError(f"no {split} image can be read; `vpt data check` lists the reasons")
    before, after = _used(data.train), _used(kept["train"])
    if lost := sorted(before - after):
        names = listed([data.classes[label] for label in lost])
        raise UserError(f"without the images that cannot be used no training images of {names} are left; repair them")
    names = listed([entry.name for entry in report.bad])
    note = f"left out {number_of(len(report.bad), 'image')} that cannot be used: {names}"
    return replace(data, train=kept["train"], val=kept["val"], test=kept["test"], notes=(*data.notes, note))


def _report(
    records: list[tuple[str, Record]], results: list[Checked | BadImage], remembered: int, classes: Sequence[str]
) -> CheckReport:
    bad: list[Bad] = []
    good: list[Checked] = []
    notes: dict[str, list[str]] = {}
    owners: dict[str, tuple[str, str]] = {}
    leaks: list[Leak] = []
    firsts: dict[str, Record] = {}
    clashes: list[Clash] = []
    deep: list[Deep] = []
    for (split, record), result in zip(records, results):
        if isinstance(result, BadImage):
            place = f" ({record.place})" if record.place else ""
            bad.append(Bad(split, record.name, result.reason + place))
            continue
        good.append(result)
        for note in result.notes:
            notes.setdefault(note, []).append(record.name)
        owner = owners.setdefault(result.digest, (split, record.name))
        if owner[0] != split:
            leaks.append(Leak(*owner, split, record.name))
        first = firsts.setdefault(result.digest, record)
        if set(first.labels) != set(record.labels):
            mine, theirs = (tuple(classes[label] for label in sorted(set(one.labels))) for one in (first, record))
            clashes.append(Clash(first.name, mine, record.name, theirs))
        if result.depth is not None:
            deep.append(Deep(split, record.name, result.depth))
    sizes = sorted(((result.width, result.height) for result in good), key=lambda size: (size[0] * size[1], size))
    return CheckReport(
        total=len(records),
        formats=dict(Counter(result.format for result in good)),
        modes=dict(Counter(result.mode for result in good)),
        sizes=(sizes[0], sizes[-1]) if sizes else None,
        bad=tuple(bad),
        notes={note: tuple(names) for note, names in notes.items()},
        leaks=tuple(leaks),
        remembered=remembered,
        deep=tuple(deep),
        clashes=tuple(clashes),
        pixels=_pixels(good),
    )


def _pixels(images: Sequence[Checked]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.digest.encode())
    return f"pillow-{PIL.__version__} {digest.hexdigest()}"


def _used(records: Iterable[Record]) -> set[int]:
    return {label for record in records for label in record.labels}


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes) or "no label"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
