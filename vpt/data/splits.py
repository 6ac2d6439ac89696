"""Splitting off a validation set and drawing few shots, per class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vpt.config import DataConfig
from vpt.data.dataset import Record
from vpt.data.datasets.entries import number_of
from vpt.data.medical.read import slices_of
from vpt.data.sampler import split_order
from vpt.utils.errors import UserError

VALIDATION, _SHOTS, TEST, FOLDS = 1, 2, 3, 4  # purposes, so that no two draws are the same
NO_LABEL = 2**31
R = TypeVar("R", bound=Record)
Part = Callable[[Sequence[Any], float, int, int], tuple[list[Any], list[Any]]]


def split_off(
    records: Sequence[R], fraction: float, seed: int, purpose: int = VALIDATION, usable: Sequence[R] | None = None
) -> tuple[list[R], list[R]]:
    """Split records into (training, validation) or (training, test), both in the original order.

    `fraction` of each class goes to the second. If `usable` lists some of the records, the others stay in the first.

    Every class with at least two images gets at least one on either side. An image with several labels counts for
    its rarest one. Images of one group stay together; then this holds for classes with at least two groups.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (i % 2,)) for i in range(6)]
    >>> [len(part) for part in split_off(records, 0.1, seed=0)]
    [4, 2]
    """
    usable = records if usable is None else usable
    chosen: set[int] = set()
    if any(record.group for record in usable):
        groups = _choose_groups(usable, fraction, seed, purpose)
        chosen.update(id(record) for record in records if record.group in groups)
    else:
        for stratum, members in _strata(usable).items():
            if len(members) < 2:
                continue
            count = min(max(1, round(len(members) * fraction)), len(members) - 1)
            chosen.update(id(usable[members[at]]) for at in split_order(len(members), seed, purpose, stratum)[:count])
    return (
        [record for record in records if id(record) not in chosen],
        [record for record in records if id(record) in chosen],
    )


def _choose_groups(records: Sequence[Record], fraction: float, seed: int, purpose: int) -> set[str]:
    """The groups to split off: about `fraction` of the images and of each class.

    A class that only one group has stays in the first part.
    """
    owners: dict[int, set[str]] = {}
    for record in records:
        for label in record.labels:
            owners.setdefault(label, set()).add(record.group)
    shared = [groups for groups in owners.values() if len(groups) > 1]
    needed = {group for groups in owners.values() if len(groups) == 1 for group in groups}
    sizes = Counter(record.group for record in records)
    free = sorted(set(sizes) - needed, key=lambda group: (sizes[group], group))
    if not free or len(sizes) < 2:
        return set()
    options: list[set[str]] = [set()]
    if len(free) > 1:
        available = [record for record in records if record.group not in needed]
        count = min(max(2, round(1 / min(fraction, 1 - fraction))), len(free))
        folds = [{available[at].group for at in part} for part in folds_of(available, count, seed, purpose)]
        options = folds if fraction <= 0.5 else [set(free) - fold for fold in folds]

    def quality(chosen: set[str]) -> tuple[int, float]:
        covered = sum(bool(groups & chosen) and bool(groups - chosen) for groups in shared)
        return covered, -abs(sum(sizes[group] for group in chosen) - fraction * len(records))

    best = max(options, key=quality)
    for groups in sorted(shared, key=len):  # classes that the fold does not have
        spare = (group for group in free if group in groups and all(each - best - {group} for each in shared))
        if not groups & best and (group := next(spare, None)) is not None:
            best = best | {group}
    for groups in shared:  # classes of which nothing would be left
        if not groups - best:
            best = best - {min(groups, key=lambda group: (sizes[group], group))}
    return best


def folds_of(records: Sequence[Record], folds: int, seed: int, purpose: int) -> list[list[int]]:
    """Divide records into folds with about equal shares of each class; images of one group stay together.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (i % 2,), group=f"p{i // 2}") for i in range(8)]
    >>> [len(fold) for fold in folds_of(records, 2, 0, TEST)]
    [4, 4]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    keys = [(record.group, -1 if record.group else at) for at, record in enumerate(records)]
    names = sorted(set(keys))
    # It is not asked to shuffle: the order of the numbers of the groups decides, which depends on no library.
    place = {names[at]: number for number, at in enumerate(split_order(len(names), seed, purpose).tolist())}
    strata = [0] * len(records)
    for stratum, members in _strata(records).items():
        for at in members:
            strata[at] = stratum
    if max(Counter(strata).values()) < folds:
        strata = [0] * len(records)  # every class is too small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with fewer images than folds
        parts = list(StratifiedGroupKFold(folds).split(strata, strata, [place[key] for key in keys]))
    return [part.tolist() for _, part in parts]


def hold_fold(records: Sequence[R], config: DataConfig, usable: Sequence[R] | None = None) -> tuple[list[R], list[R]]:
    """Split records into those of the other folds and those of fold `data.fold` of `data.folds`.

    Raises:
        UserError: no such fold, or too few images or groups; `data.fold` is open.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (i % 2,)) for i in range(8)]
    >>> [len(part) for part in hold_fold(records, DataConfig(folds=4, fold=0))]
    [6, 2]
    """
    folds, fold = config.folds, config.fold
    if folds is None or fold is None or fold >= folds:
        raise UserError(
            f"data.folds={folds} data.fold={fold}: one run needs both, with a fold from 0 to {(folds or 1) - 1}; vpt "
            "train data.folds=5 trains a run for every fold"
        )
    usable = records if usable is None else usable
    units = len({record.group or id(record) for record in usable})
    parts = folds_of(usable, folds, config.split_seed, FOLDS) if units >= folds else [[]]
    if not all(parts):
        what = "images" if config.group is None else "groups"
        raise UserError(f"data.folds={folds}: {units} {what} cannot be divided into so many folds; use fewer")
    if not all(any(usable[at].labels for at in part) for part in parts):
        raise UserError(f"data.folds={folds}: a fold would have no image with a label, so no metric; use fewer")
    held = {id(usable[at]) for at in parts[fold]}
    return [one for one in records if id(one) not in held], [one for one in records if id(one) in held]


def with_fold(
    train: Sequence[R],
    val: Sequence[R],
    test: Sequence[R],
    config: DataConfig,
    notes: list[str],
    usable: Callable[[Sequence[R]], Sequence[R]] = lambda records: records,
) -> tuple[Sequence[R], Sequence[R], Sequence[R]]:
    """Splits with fold `data.fold` of the training and validation images as the test images, if folds are asked for;
    given test images are left out. Notes are added to `notes`; errors as in `hold_fold`.

    >>> with_fold([1, 2], [], [3], DataConfig(), [])
    ([1, 2], [], [3])
    """
    if config.folds is None and config.fold is None:
        return train, val, test
    if test:
        notes.append(f"{number_of(len(test), 'given test image')} left out: the test images are those of a fold")
    whole = [*train, *val]
    kept, held = hold_fold(whole, config, usable(whole))
    notes.append(f"fold {config.fold} of {config.folds}, counted from 0: {number_of(len(held), 'test image')}")
    return kept, [], held


def draw_shots(
    records: Sequence[Record], shots: int, seed: int, negatives: bool = False
) -> tuple[list[Record], dict[int, int]]:
    """Keep `shots` records per class, in the original order; also return the count of each class that has fewer.

    For multi-label data, images are drawn as long as they have a label that is not yet drawn often enough. With
    `negatives`, images without a label are drawn as if they were a class; without, none is. Of images in groups,
    `shots` groups per class are kept, whole.

    >>> from pathlib import Path
    >>> records = [Record(f"{i}", Path(f"{i}"), (int(i > 0),)) for i in range(6)]
    >>> kept, short = draw_shots(records, 2, seed=0)
    >>> len(kept), short
    (3, {0: 1})
    """
    units: dict[object, list[int]] = {}  # what is drawn: images, or groups of them
    for at, record in enumerate(records):
        units.setdefault(record.group or at, []).append(at)
    members = list(units.values())
    seen: Counter[int] = Counter()
    chosen: set[int] = set()
    for unit in split_order(len(members), seed, _SHOTS).tolist():
        labels = [label for at in members[unit] for label in records[at].labels or ((NO_LABEL,) if negatives else ())]
        if records[members[unit][0]].group:
            labels = list(dict.fromkeys(labels))
        if any(seen[label] < shots for label in labels):
            chosen.update(members[unit])
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


def divide(
    train: Sequence[R],
    val: Sequence[R],
    test: Sequence[R],
    config: DataConfig,
    notes: list[str],
    part: Part = split_off,
    usable: Callable[[Sequence[R]], Sequence[R]] = lambda records: records,
) -> tuple[list[Record], list[Record], list[Record]]:
    """Hold a fold out, split validation and test off training where they are missing, as `config` says, draw the shots,
    and apply `set_apart`. For boxes and masks, whose images need not have a class each.

    Args:
        train, val, test: records of each split that the data set defines.
        config: the data section.
        notes: gets what was split off.
        part: splits records by a fraction, a seed and a purpose.
        usable: those of some records whose images can be used, which folds are made of.

    Raises:
        UserError: too few images for the folds, or to split validation off.
    """
    train, val, test = with_fold(train, val, test, config, notes, usable)
    if train and not test and config.test_fraction is not None:
        train, test = part(train, config.test_fraction, config.split_seed, TEST)
        notes.append(
            f"split {number_of(len(test), 'image')} off for test (data.test_fraction={config.test_fraction:g})"
        )
    if train and not val:
        train, val = part(train, config.val_fraction, config.split_seed, VALIDATION)
        notes.append(
            f"split {number_of(len(val), 'image')} off for validation (data.val_fraction={config.val_fraction:g}, "
            f"data.split_seed={config.split_seed})"
        )
    if train and not val and not config.join_val:
        raise UserError(f"data.path={config.path} has too few images to split validation off; give data.val")
    drawn: Sequence[Record] = train
    if config.shots is not None:
        drawn, _ = draw_shots(train, config.shots, config.split_seed)
    return set_apart(drawn, val, test, config)


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
            found.append(replace(record, name=record.name + number, source=path, channels=config.channels))
    return tuple(found)


def _strata(records: Sequence[Record]) -> dict[int, list[int]]:
    counts = Counter(label for record in records for label in record.labels)
    strata: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        # An image without boxes has no label; such images are a stratum of their own.
        rarest = min(record.labels, key=lambda label: (counts[label], label), default=NO_LABEL)
        strata.setdefault(rarest, []).append(index)
    return strata
