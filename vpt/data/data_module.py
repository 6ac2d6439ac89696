"""A data set as runs take it: read, its images checked, and decoded where they are to be kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

from vpt.config import RunConfig
from vpt.config.data import Window
from vpt.config.storable import refuse_unstorable
from vpt.data.dataset import SPLITS, LabelledData
from vpt.data.deep_images import explained
from vpt.data.image_cache import ImageCache
from vpt.data.intensity_window import window_of
from vpt.data.validation import CheckReport, apply, check
from vpt.utils.errors import UserError

# Settings of data that change how an image becomes a tensor, but not what is read.
FREE = {"augment", "resize", "crop_pct", "workers"}
KEPT = 8  # readings; a search over a range would gather them without end

Load = Callable[[RunConfig], LabelledData]  # a task's; it goes by the section of data alone


@dataclass(frozen=True)
class Reading:
    """What was read for a run.

    Args:
        data: without images that cannot be read.
        notes: what the user should know of how the data was chosen.
        warning: what the check found wrong, or "".
        caches: decoded images by split, when they are to be kept.
        window: what `data.window` comes to.
    """

    data: LabelledData
    notes: tuple[str, ...]
    warning: str
    caches: Mapping[str, ImageCache]
    window: Window = "full"


def read(config: RunConfig, load: Load) -> Reading:
    """Read what a run trains on.

    Raises:
        UserError: data that cannot be found or used, is made for testing alone, or does not fit into memory; names
            that an artifact cannot hold.
    """
    loaded = load(config)
    if not loaded.train:
        raise UserError(f"data.path={config.data.path} is made for testing alone; train on another data set")
    refuse_unstorable(config, loaded.classes)
    data, report = checked(loaded, config)
    window = resolved(config.data.window, report)
    data = data.with_window(window)
    caches = {}
    if config.data.cache:
        caches = {split: ImageCache(data.split(split), config.data.max_pixels) for split in SPLITS if data.split(split)}
    notes = (*loaded.notes, *explained(window, report.deep))
    return Reading(data, notes, report.text() if report.worrying else "", caches, window)


def checked(data: LabelledData, config: RunConfig) -> tuple[LabelledData, CheckReport]:
    """The data without images that cannot be read, and what the check found.

    Raises:
        UserError: images that cannot be read and are not to be left out, by name.

    >>> from vpt.data.dataset import LabelledData
    >>> checked(LabelledData(("a", "b"), False, (), ()), RunConfig())[1].worrying
    False
    """
    report = check(data, config.data.max_pixels)
    return replace(apply(data, report, config.data.on_bad), pixels=report.pixels), report


def resolved(window: Window, report: CheckReport) -> Window:
    """What `data.window` comes to for a run with these images: "auto" is chosen, by those for training and validation.

    >>> resolved((0.0, 1023.0), CheckReport(0, {}, {}, None, (), {}, ()))
    (0.0, 1023.0)
    """
    if window != "auto":
        return window
    return window_of(one.depth for one in report.deep if one.split != "test")


def with_window(config: RunConfig, window: Window) -> RunConfig:
    """The same settings with `data.window` decided.

    >>> with_window(RunConfig(), (0.0, 4095.0)).data.window
    (0.0, 4095.0)
    """
    return config.with_({"data.window": window})


def reads(config: RunConfig) -> Hashable:
    """The settings that decide what is read: runs in which they are equal can share a reading.

    >>> from vpt.config import load_config
    >>> plain = reads(load_config())
    >>> reads(load_config(overrides=["data.augment=strong", "prompt.tokens=3"])) == plain
    True
    >>> reads(load_config(overrides=["data.shots=4"])) == plain
    False
    """
    return config.task, config.data.model_dump_json(exclude=FREE)


class Readings:
    """What was read for the runs of one call, so that those that read the same read it once."""

    def __init__(self) -> None:
        self._read: dict[Hashable, Reading] = {}  # the oldest first

    def of(self, config: RunConfig, load: Load) -> Reading:
        """What `read` gives, or gave for a run that reads the same.

        Raises:
            UserError: as `read` does.
        """
        wanted = reads(config)
        if wanted not in self._read:
            if config.data.cache:
                self._read.clear()  # decoded images are large: no more of them are held than a single run needs
            elif len(self._read) == KEPT:
                del self._read[next(iter(self._read))]
            self._read[wanted] = read(config, load)
        return self._read[wanted]
