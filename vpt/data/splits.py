"""Splitting off a validation set and drawing few shots, per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vpt.config import DataConfig
from vpt.data.dataset import Record
from vpt.data.medical.read import slices_of
from vpt.data.sampler import split_order

VALIDATION, _SHOTS, TEST = 1, 2, 3  # purposes, so that no two draws are the same
NO_LABEL = 2**31
R = TypeVar("R", bound=Record)


def split_off(
    records: Sequence[R], fraction: float, seed: int, purpose: int = VALIDATION, usable: Sequence[R] | None = None
) -> tuple[list[R], list[R]]:
    """Split records into (training, validation) or (training, test), both in the original order.

    `fraction` of each class goes to the second. If `usable` lists some of the records, the others stay in the first.

    Every class with at least two images gets at least one on either side. An image with several labels counts for
    its rarest one.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (i % 2,)) for i in range(6)]
    >>> [len(part) for part in split_off(records, 0.1, seed=0)]
    [4, 2]
    """
    usable = records if usable is None else usable
    chosen: set[int] = set()
    for stratum, members in _strata(usable).items():
        if len(members) < 2:
            continue
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        chosen.update(id(usable[members[at]]) for at in split_order(len(members), seed, purpose, stratum)[:count])
    return (
        [record for record in records if id(record) not in chosen],
        [record for record in records if id(record) in chosen],
    )


def draw_shots(
    records: Sequence[Record], shots: int, seed: int, negatives: bool = False
) -> tuple[list[Record], dict[int, int]]:
    """Keep `shots` records per class, in the original order; also return the count of each class that has fewer.

    For multi-label data, images are drawn as long as they have a label that is not yet drawn often enough. With
    `negatives`, images without a label are drawn as if they were a class; without, none is.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (int(i > 0),)) for i in range(6)]
    >>> kept, short = draw_shots(records, 2, seed=0)
    >>> len(kept), short
    (3, {0: 1})
    """
    seen: Counter[int] = Counter()
    chosen: set[int] = set()
    for at in split_order(len(records), seed, _SHOTS).tolist():
        labels = records[at].labels or ((NO_LABEL,) if negatives else ())
        if any(seen[label] < shots for label in labels):
            chosen.add(at)
            seen.update(labels)
    short = {label: seen[label] for label in sorted(seen) if seen[label] < shots and label != NO_LABEL}
    return [record for index, record in enumerate(records) if index in chosen], short


def set_apart(
    train: Sequence[Record],
    val: Sequence[Record],
    test: Sequence[Record],
    config: DataConfig,
    negatives: bool = False,
) -> tuple[list[Record], list[Record], list[Record]]:
    """Apply `val_shots`, `join_val` and `hold_test` to the splits; `negatives` as in `draw_shots`.

    >>> from pathlib import Path
    >>> one = [Record("a", Path("a"), (0,))]
    >>> [len(split) for split in set_apart(one, one, one, DataConfig(join_val=True, hold_test=True))]
    [2, 0, 0]
    """
    if config.val_shots is not None:
        val, _ = draw_shots(val, config.val_shots, config.split_seed, negatives)
    if config.join_val:
        train, val = [*train, *val], []
    return list(train), list(val), [] if config.hold_test else list(test)


def with_slices(records: Iterable[Record], config: DataConfig) -> tuple[Record, ...]:
    """A record for each slice of files with several, if `data.slices` says so. Splits are drawn before, so that all
    slices of a file are in one split.

    >>> with_slices([Record("a", Path("a.png"), (0,))], DataConfig(slices="all"))[0].name
    'a'
    """
    found: list[Record] = []
    for record in records:
        slices = [record.source]
        if config.slices == "all" and isinstance(record.source, Path):
            slices = [*slices_of(record.source, config.max_pixels)]
        for path in slices:
            number = "" if path == record.source else f"#{str(path).rpartition('#')[2]}"
            found.append(replace(record, name=record.name + number, source=path))
    return tuple(found)


def _strata(records: Sequence[Record]) -> dict[int, list[int]]:
    counts = Counter(label for record in records for label in record.labels)
    strata: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        # An image without boxes has no label; such images are a stratum of their own.
        rarest = min(record.labels, key=lambda label: (counts[label], label), default=NO_LABEL)
        strata.setdefault(rarest, []).append(index)
    return strata
