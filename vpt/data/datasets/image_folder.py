"""Class folders: one folder for each class, alone or within train/, val/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from vpt.data.class_names import clean
from vpt.data.datasets.entries import (
    SPLIT_NAMES,
    Entry,
    Found,
    NoTrainingImages,
    ignored_note,
    is_image,
    listed,
    number_of,
)
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown

# What files are that are there and no images of the data set, as `vpt data check` tells it.
OUTSIDE, ASIDE, HIDDEN, OTHER = "outside class folders", "beside the split folders", "hidden", "no images"


def read_folder(root: Path, known: Collection[str] | None = None) -> Found:
    """Find the images below `root`. Images may lie deeper than their class folder.

    A folder called train, training, ... is a split when it holds folders; so a class may be called "train" too. Where
    there are images in it as well, it is one if there is another split, or nothing else.

    Args:
        root: the folder.
        known: the classes of an artifact that is to be measured. Then no training images are needed, and a folder with
            the name of a class is no split.

    Raises:
        UserError: no such folder, no class folders, classes without training images, or no images at all.
    """
    folders, images, _ = _listing(root)
    found = Found()
    splits = _split_folders(root, folders, known, found.notes)
    if splits is None:
        return _add_split(found, "train", root, root, known)
    found.divided = True
    for split, folder in splits.items():
        _add_split(found, split, root, folder, known)
    left = [name for name in folders if root / name not in splits.values()]
    if left or images:
        found.notes.append(f"beside the split folders of {root} these were ignored: {listed(left + images)}")
    inside = sum(files_below(folder) for folder in splits.values())
    found.left_out[ASIDE] += files_below(root) - inside
    return found


def read_split_folder(folder: Path, known: Collection[str] | None = None) -> Found:
    """Find the images of one split, given as a folder of class folders. Its entries are under "train"."""
    return _add_split(Found(), "train", folder, folder, known)


def _add_split(found: Found, split: str, root: Path, folder: Path, known: Collection[str] | None) -> Found:
    """Add the images of the class folders in `folder`, named relative to `root`; tell of all other files there."""
    folders, outside, others = _listing(folder)
    _refuse_flat(folder, folders, outside)
    ignored = Counter(others)
    for name in _hidden_folders(folder):
        ignored["hidden"] += files_below(folder / name)
    empty: list[str] = []
    entries: list[Entry] = []
    for name in folders:
        _refuse_nested(folder / name)
        paths = images_below(folder / name, ignored)
        entries += [Entry(shown(path.relative_to(root)), path, (name,)) for path in paths]
        if not paths:
            empty.append(shown(name))
    if not entries:
        raise UserError(f"there are no images in the class folders of {folder}; {hint(ignored)}")
    # Images that are measured may lack classes, but training cannot.
    if empty and known is None and (folder == root or SPLIT_NAMES.get(folder.name.lower()) == "train"):
        raise UserError(f"class folders without images in {folder}: {listed(empty)}; add images or remove the folders")
    found.splits[split] = entries
    if outside:
        names = [shown((folder / name).relative_to(root)) for name in outside]
        found.notes.append(f"ignored {number_of(len(names), 'image')} outside any class folder: {listed(names)}")
    found.notes += ignored_note(ignored)
    found.left_out[OUTSIDE] += len(outside)
    found.left_out[HIDDEN] += ignored["hidden"]
    found.left_out[OTHER] += ignored.total() - ignored["hidden"]
    return found


def _split_folders(
    root: Path, folders: list[str], known: Collection[str] | None, notes: list[str]
) -> dict[str, Path] | None:
    """The split folders of `root` by our names, or None when its folders are classes."""
    splits: dict[str, Path] = {}
    strays = False
    for name in folders:
        split = SPLIT_NAMES.get(name.lower())
        if split is None or (known is not None and clean(name) in known):
            continue
        inner, images, _ = _listing(root / name)
        if not inner:
            continue
        if split in splits:
            raise UserError(f"{root} holds both {splits[split].name}/ and {name}/; remove or rename one of them")
        splits[split] = root / name
        strays |= bool(images)
    # One such folder with images in it and other folders beside it is a class; two, or all there is, are splits.
    if strays and len(splits) == 1 and len(folders) > 1:
        [folder] = splits.values()
        notes.append(
            f"warning: {folder} holds folders and images, so it is read as a class called '{folder.name}'; if it is a "
            "split, put its images into class folders"
        )
        return None
    if splits and known is None and "train" not in splits:
        if len(splits) < len(folders):
            return None
        raise NoTrainingImages(
            f"{root} holds {listed([path.name for path in splits.values()])} but no train folder with class folders; "
            f"name the folder with the training images 'train', or measure a run on it: vpt eval RUN data={root}"
        )
    return splits or None


def images_below(folder: Path, ignored: Counter[str]) -> list[Path]:
    """The image files in `folder` and in the folders below it, links followed; nothing hidden.

    Args:
        folder: that exists.
        ignored: takes the count of other files by extension.

    Raises:
        UserError: a folder that cannot be read.

    >>> images_below(Path(__file__).parent, ignored := Counter()), ".py" in ignored
    ([], True)
    """
    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        ignored["hidden"] += sum(files_below(Path(parent, name)) for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image(name):
                paths.append(Path(parent, name))
            else:
                ignored["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower()] += 1
    ignored += Counter()  # without counts of nothing
    return paths


def files_below(folder: Path) -> int:
    """How many files lie in `folder` and in the folders below it, links followed, each folder once.

    >>> files_below(Path(__file__).parent) > 10
    True
    """
    count = 0
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        count += len(files)
    return count


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot read the folder {error.filename}: {error.strerror}; make it readable or remove it")


def _listing(folder: Path) -> tuple[list[str], list[str], Counter[str]]:
    """Names of the folders and of the images in `folder`, sorted, and the kinds of other files."""
    try:
        with os.scandir(folder) as scan:
            items = sorted((item.name, item.is_dir()) for item in scan)
    except FileNotFoundError:
        raise UserError(f"there is no folder {folder}; check data.path") from None
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}; check data.path") from None
    folders = [name for name, is_folder in items if is_folder and not name.startswith((".", "__MACOSX"))]
    images = [name for name, is_folder in items if not is_folder and is_image(name)]
    others = [name for name, is_folder in items if not is_folder and not is_image(name)]
    kinds = ("hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() for name in others)
    return folders, images, Counter(kinds)


def _hidden_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as scan:
        return [item.name for item in scan if item.is_dir() and item.name.startswith((".", "__MACOSX"))]


def _refuse_flat(folder: Path, folders: list[str], images: list[str]) -> None:
    if folders:
        return
    if images:
        raise UserError(
            f"{folder} holds {number_of(len(images), 'image')} outside any class folder; put each into a folder "
            "named after its class, or list them in a CSV file with the columns path,label"
        )
    raise UserError(f"{folder} is empty: it should hold a folder of images for each class")


def _refuse_nested(folder: Path) -> None:
    """Catch a path one folder too high, where whole data sets would pass for classes."""
    folders, images, _ = _listing(folder)
    splits = {SPLIT_NAMES.get(name.lower()) for name in folders}
    if not images and {"train", "test"} <= splits | ({"test"} if "val" in splits else set()):
        raise UserError(f"{folder} is a data set of its own, with {listed(folders)}; set data.path={folder}")


def hint(ignored: Counter[str]) -> str:
    """What is said where no image was found.

    >>> hint(Counter([".txt"])), hint(Counter())
    ('found only .txt', 'put some there')
    """
    if ignored:
        return f"found only {', '.join(kind or 'files without extension' for kind in list(ignored)[:8])}"
    return "put some there"
