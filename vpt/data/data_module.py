"""The data of a run: read, validated, and decoded into memory if requested."""

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

# Data settings that change how an image becomes a tensor, but not what is read.
FREE = {"augment", "resize", "crop_pct", "workers"}
KEPT = 8  # data sets kept in memory; a search over a range would accumulate them without limit

Load = Callable[[RunConfig], LabelledData]  # of a task; depends only on the data section


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Args:
        data: without images that cannot be read.
        notes: messages for the user about how the data was chosen.
        warning: problems found by the check, or "".
        caches: decoded images by split, if they are cached.
        window: the resolved `data.window`.
    """

    data: LabelledData
    notes: tuple[str, ...]
    warning: str
    caches: Mapping[str, ImageCache]
    window: Window = "full"


def read(config: RunConfig, load: Load) -> RunData:
    """Read the data of a run.

    Raises:
        UserError: data that cannot be found or used, has only test images, or does not fit into memory; names that an
            artifact cannot store.
    """
    loaded = load(config)
    if not loaded.train:
        raise UserError(f"data.path={config.data.path} has only test images; train on another data set")
    refuse_unstorable(config, loaded.classes, loaded.multilabel)
    data, report = checked(loaded, config)
    window = resolved(config.data.window, report)
    data = data.with_window(window)
    caches = {}
    if config.data.cache:
        caches = {split: ImageCache(data.split(split), config.data.max_pixels) for split in SPLITS if data.split(split)}
    notes = (*loaded.notes, *explained(window, report.deep))
    return RunData(data, notes, report.text() if report.worrying else "", caches, window)


def checked(data: LabelledData, config: RunConfig) -> tuple[LabelledData, CheckReport]:
    """The data without images that cannot be read, and the report of the check.

    Raises:
        UserError: images that cannot be read and are not to be skipped, by name.

    >>> from vpt.data.dataset import LabelledData
    >>> checked(LabelledData(("a", "b"), False, (), ()), RunConfig())[1].worrying
    False
    """
    report = check(data, config.data.max_pixels)
    return replace(apply(data, report, config.data.on_bad), pixels=report.pixels), report


def resolved(window: Window, report: CheckReport) -> Window:
    """Resolve `data.window` for a run with these images; "auto" depends on those for training and validation.

    >>> resolved((0.0, 1023.0), CheckReport(0, {}, {}, None, (), {}, ()))
    (0.0, 1023.0)
    """
    if window != "auto":
        return window
    return window_of(one.depth for one in report.deep if one.split != "test")


def with_window(config: RunConfig, window: Window) -> RunConfig:
    """The same settings with a resolved `data.window`.

    >>> with_window(RunConfig(), (0.0, 4095.0)).data.window
    (0.0, 4095.0)
    """
    return config.with_({"data.window": window})


def reads(config: RunConfig) -> Hashable:
    """The settings that determine what is read; runs in which they are equal can share the data.

    >>> from vpt.config import load_config
    >>> plain = reads(load_config())
    >>> reads(load_config(overrides=["data.augment=strong", "prompt.tokens=3"])) == plain
    True
    >>> reads(load_config(overrides=["data.shots=4"])) == plain
    False
    """
    return config.task, config.data.model_dump_json(exclude=FREE)


class DataCache:
    """Cache of the data read in one call, so that runs with the same data read it once."""

    def __init__(self) -> None:
        self._read: dict[Hashable, RunData] = {}  # oldest first

    def of(self, config: RunConfig, load: Load) -> RunData:
        """The result of `read`, cached for runs with the same data.

        Raises:
            UserError: as in `read`.
        """
        wanted = reads(config)
        if wanted not in self._read:
            if config.data.cache:
                self._read.clear()  # decoded images are large: keep only those of a single run
            elif len(self._read) == KEPT:
                del self._read[next(iter(self._read))]
            self._read[wanted] = read(config, load)
        return self._read[wanted]
