"""Suites: their tasks, the location of their data, and their protocols. No data is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vpt.config import word
from vpt.data.datasets import dassl, fgvc, vtab
from vpt.data.datasets.split_files import found_at
from vpt.utils.errors import UserError, nearest

Protocol = Literal["chosen", "few-shot", "base-to-new", "transfer"]


@dataclass(frozen=True)
class Task:
    """One data set of a suite.

    Args:
        name: name in commands and tables.
        data: value of `data.path`; {root} is replaced by the root.
        places: possible locations below the root, as read by `found_at`; one of them is enough.
        group: group of its mean.
        classes: number of classes; None if unknown.
        images: number of images of each split, as far as known.
        words: settings of this task besides the suite's.
    """

    name: str
    data: str
    places: tuple[str, ...]
    group: str = ""
    classes: int | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def settings(self, root: Path) -> list[str]:
        """`key=value` settings of this task's data below `root`."""
        return [word("data.path", self.data.format(root=root)), word("data.root", root), *self.words]

    def lies_in(self, root: Path) -> Path | None:
        """Location of the data below `root`, or None."""
        return found_at(root, self.places)


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together.

    Args:
        name: name in commands.
        title: title for users, with the paper.
        tasks: tasks by name.
        had: source of the data.
        words: settings of every run, which a recipe and the command line may override.
        final: settings of the final runs besides the chosen ones.
        protocol: "chosen" settings on validation and then final runs; or one of vpt/experiments/protocols.py.
        seeds: default seeds of the final runs.
        source: the only task for training, if the others are only used for testing.
    """

    name: str
    title: str
    tasks: Mapping[str, Task]
    had: str
    words: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    protocol: Protocol = "chosen"
    seeds: tuple[int, ...] = (0,)
    source: str | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order; may be empty."""
        return tuple(dict.fromkeys(task.group for task in self.tasks.values() if task.group))

    def pick(self, names: list[str]) -> list[Task]:
        """Tasks with these names and the source task, in the order of the suite; all tasks without names.

        Raises:
            UserError: a name is not a task.

        >>> [task.name for task in SUITES["vtab"].pick(["dtd", "cifar"])]
        ['cifar', 'dtd']
        """
        for name in names:
            if name not in self.tasks:
                raise UserError(f"{self.name} has no task '{name}'{nearest(name, self.tasks)}; see: vpt bench list")
        return [task for task in self.tasks.values() if not names or task.name in (*names, self.source)]


def suite_of(name: str) -> Suite:
    """The suite with a name.

    Raises:
        UserError: there is no such suite.

    >>> suite_of("vtab").title
    'VTAB-1k (Zhai et al. 2019)'
    >>> suite_of("vtb")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: there is no benchmark 'vtb'; did you mean 'vtab'?; known: vtab, fgvc, ...
    """
    if name not in SUITES:
        raise UserError(f"there is no benchmark '{name}'{nearest(name, SUITES)}; known: {', '.join(SUITES)}")
    return SUITES[name]


def _named(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


def _vtab() -> dict[str, Task]:
    return _named(
        *(
            Task(
                name,
                f"vtab:{name}",
                vtab.places(name),
                task.group,
                task.classes,
                {"train": 800, "val": 200, "test": task.test},
            )
            for name, task in vtab.TASKS.items()
        )
    )


def _fgvc() -> dict[str, Task]:
    return _named(
        *(
            Task(
                name,
                f"fgvc:{name}",
                fgvc.places(name),
                classes=one.classes,
                images={"train": one.train, "val": one.val, "test": one.test},
            )
            for name, one in fgvc.SETS.items()
        )
    )


def _dassl(name: str, called: str | None = None, group: str = "") -> Task:
    one = dassl.SETS[name]
    return Task(called or name, f"dassl:{name}", (one.folder,), group, one.classes, one.images)


def _eleven() -> dict[str, Task]:
    return _named(*(_dassl(name) for name in dassl.SETS if name not in dassl.SHIFTS))


def _from_imagenet() -> dict[str, Task]:
    """ImageNet, the other ten, and its four shifts."""
    groups = {"imagenet": "", **dict.fromkeys(dassl.SHIFTS, "shifts")}
    return _named(*(_dassl(name, group=groups.get(name, "other data sets")) for name in dassl.SETS))


def _pixels() -> dict[str, Task]:
    """The twelve of Bahng et al.; those with split files of CoOp are read with them, as in ILM-VP."""
    # 31,500 images in one folder per class; the fractions give the 18,900 training images of TensorFlow Datasets.
    resisc = ("data.test_fraction=0.2", "data.val_fraction=0.25")
    return _named(
        Task("cifar100", "torchvision:CIFAR100", ("cifar-100-python",), classes=100, images={"test": 10_000}),
        Task("cifar10", "torchvision:CIFAR10", ("cifar-10-batches-py",), classes=10, images={"test": 10_000}),
        _dassl("oxford_flowers", "flowers102"),
        _dassl("food101"),
        _dassl("eurosat"),
        _dassl("sun397"),
        _dassl("dtd"),
        _dassl("ucf101"),
        Task("svhn", "torchvision:SVHN", ("test_32x32.mat",), classes=10, images={"test": 26_032}),
        _dassl("oxford_pets"),
        Task("resisc45", "{root}/NWPU-RESISC45", ("NWPU-RESISC45",), classes=45, images={"test": 6_300}, words=resisc),
        Task("clevr", "torchvision:CLEVRClassification", ("clevr",), classes=8, images={"test": 15_000}),
    )


_COOP = "github.com/KaiyangZhou/CoOp, DATASETS.md: folders and split files"

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "vtab",
            "VTAB-1k (Zhai et al. 2019)",
            _vtab(),
            "github.com/dongzelian/SSF (its README links a ready copy) or NOAH's get_vtab1k.py",
            ("data.augment=none", "data.resize=squash", "backbone.normalise=imagenet"),
            ("data.join_val=true",),
            seeds=(0, 1, 2, 3, 4),
        ),
        Suite(
            "fgvc",
            "FGVC, five data sets (Jia et al. 2022)",
            _fgvc(),
            "github.com/KMnP/vpt, README: the images' own sites and the split files",
            ("data.augment=light", "data.crop_pct=0.875", "backbone.normalise=imagenet"),
        ),
        Suite(
            "few-shot", "few-shot, eleven data sets (Zhou et al. 2022)", _eleven(), _COOP, (), (), "few-shot", (1, 2, 3)
        ),
        Suite(
            "base-to-new",
            "base to new classes, eleven data sets (Zhou et al. 2022)",
            _eleven(),
            _COOP,
            (),
            (),
            "base-to-new",
            (1, 2, 3),
        ),
        Suite(
            "transfer",
            "from ImageNet to ten other data sets and four shifts (Zhou et al. 2022)",
            _from_imagenet(),
            _COOP,
            (),
            (),
            "transfer",
            (1, 2, 3),
            source="imagenet",
        ),
        Suite(
            "pixels",
            "pixel prompts, twelve data sets (Bahng et al. 2022)",
            _pixels(),
            f"{_COOP}; torchvision (data.download=true); NWPU-RESISC45 from its authors",
        ),
    )
}
