"""VTAB-1k (Zhai et al. 2019, arXiv 1910.04867) in the usual layout without TensorFlow: images and lists.

Layout: `vtab-1k/TASK/` contains `train800.txt`, `val200.txt`, `train800val200.txt` and `test.txt`, whose lines are
`images/.../000000.jpg LABEL`. Folder and list names are those of NOAH's `get_vtab1k.py`; numbers of classes and of test
images those of VPT's table 7 (Jia et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vpt.data.datasets.entries import Entry, Found
from vpt.data.datasets.paths import inside
from vpt.data.datasets.split_files import folder_of, read_lines
from vpt.data.sampler import split_order
from vpt.data.splits import VALIDATION
from vpt.utils.errors import UserError

TRAIN, VAL, JOINED, TEST = "train800.txt", "val200.txt", "train800val200.txt", "test.txt"


@dataclass(frozen=True)
class VtabTask:
    """A task: its group, number of classes and number of test images."""

    group: str
    classes: int
    test: int


TASKS: dict[str, VtabTask] = {
    "cifar": VtabTask("natural", 100, 10_000),
    "caltech101": VtabTask("natural", 102, 6_084),
    "dtd": VtabTask("natural", 47, 1_880),
    "oxford_flowers102": VtabTask("natural", 102, 6_149),
    "oxford_iiit_pet": VtabTask("natural", 37, 3_669),
    "svhn": VtabTask("natural", 10, 26_032),
    "sun397": VtabTask("natural", 397, 21_750),
    "patch_camelyon": VtabTask("specialized", 2, 32_768),
    "eurosat": VtabTask("specialized", 10, 5_400),
    "resisc45": VtabTask("specialized", 45, 6_300),
    "diabetic_retinopathy": VtabTask("specialized", 5, 42_670),
    "clevr_count": VtabTask("structured", 8, 15_000),
    "clevr_dist": VtabTask("structured", 6, 15_000),
    "dmlab": VtabTask("structured", 6, 22_735),
    "kitti": VtabTask("structured", 4, 711),
    "dsprites_loc": VtabTask("structured", 16, 73_728),
    "dsprites_ori": VtabTask("structured", 16, 73_728),
    "smallnorb_azi": VtabTask("structured", 18, 12_150),
    "smallnorb_ele": VtabTask("structured", 9, 12_150),
}


def places(name: str) -> tuple[str, ...]:
    """Possible locations of a task below the root; outside `vtab-1k` its lists must exist, as CoOp's DTD has the same
    name.

    >>> places("dtd")
    ('vtab-1k/dtd', 'dtd/test.txt')
    """
    return (f"vtab-1k/{name}", f"{name}/{TEST}")


def read_vtab(name: str, root: Path) -> Found:
    """Read the task `name` below `root`: 800 training images, 200 for validation, the whole test set.

    Classes are numbers, because the training images do not include every class. `data.join_val=true` gives the 1,000
    images of the final training. In copies that have only `train800val200.txt`, a fixed random fifth is used for
    validation.

    Raises:
        UserError: no such task, or lists that are missing or damaged, by name.

    >>> read_vtab("cifar100", Path("data"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=vtab:cifar100 does not exist; did you mean 'cifar'?; known: cifar, ...
    """
    folder = folder_of("vtab", name, TASKS, root, places)
    count = TASKS[name].classes
    found = Found(classes=tuple(str(label) for label in range(count)))
    if (folder / TRAIN).is_file() or (folder / VAL).is_file():
        lists = {"train": TRAIN, "val": VAL, "test": TEST}
    else:
        lists = {"train": JOINED, "test": TEST}
    for split, file in lists.items():
        found.splits[split] = _entries(folder, folder / file, count)
    if "val" not in lists:
        found.notes.append(f"vtab:{name} has no {TRAIN}; a random fifth of {JOINED} is used for validation")
        both = found.splits["train"]
        # Not per class: for SUN397's 397 classes that would take 297 images instead of 200.
        drawn = set(split_order(len(both), 0, VALIDATION)[: len(both) // 5].tolist())
        found.splits["val"] = [entry for at, entry in enumerate(both) if at in drawn]
        found.splits["train"] = [entry for at, entry in enumerate(both) if at not in drawn]
    return found


def _entries(folder: Path, file: Path, classes: int) -> list[Entry]:
    entries = []
    for number, line in enumerate(read_lines(file), 1):
        path, _, label = line.rpartition(" ")
        if not path or not label.isdecimal() or len(label) > 9:
            raise UserError(f"{file}, line {number}: '{line[:80]}' is not of the form IMAGE LABEL; use another copy")
        if int(label) >= classes:
            raise UserError(f"{file}, line {number}: label {label}, but there are {classes} classes, counted from 0")
        entries.append(Entry(path.strip(), inside(folder, path.strip(), file), (str(int(label)),)))
    return entries
