"""Class folders: one folder per class, directly or inside train/, val/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from shlex import quote

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
from vpt.data.medical.files import has_magic
from vpt.utils.errors import UserError
from vpt.utils.file_names import shown

# Reasons why files are not images of the data set, as reported by `vpt data check`.
OUTSIDE, ASIDE, HIDDEN, OTHER = "outside class folders", "outside the split folders", "hidden", "not images"


def read_folder(root: Path, known: Collection[str] | None = None) -> Found:
    """Find the images below `root`. Images may be in subfolders of their class folder.

    A folder called train, training, ... is a split if it contains folders; otherwise it is a class of that name. If it
    contains images as well, it is a split if there is another split, or nothing else.

    Args:
        root: the folder.
        known: the classes of an artifact to evaluate. Then no training images are needed, and a folder with the name of
            a class is not a split.

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
        found.notes.append(f"ignored outside the split folders of {root}: {listed(left + images)}")
    inside = sum(files_below(folder) for folder in splits.values())
    found.left_out[ASIDE] += files_below(root) - inside
    return found


def read_split_folder(folder: Path, known: Collection[str] | None = None) -> Found:
    """Find the images of one split, given as a folder of class folders. Its entries are under "train"."""
    return _add_split(Found(), "train", folder, folder, known)


def _add_split(found: Found, split: str, root: Path, folder: Path, known: Collection[str] | None) -> Found:
    """Add the images of the class folders in `folder`, named relative to `root`; report all other files in it."""
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
    # In evaluation some classes may be missing, but not in training.
    if empty and known is None and (folder == root or SPLIT_NAMES.get(folder.name.lower()) == "train"):
        without = listed(empty)
        raise UserError(
            f"class folders without images in {folder}: {without}; add images, or move these folders elsewhere"
        )
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
    """The split folders of `root` by our names, or None if its folders are classes."""
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
            raise UserError(f"{root} contains both {splits[split].name}/ and {name}/; rename one of them")
        splits[split] = root / name
        strays |= bool(images)
    # One such folder with images in it, next to other folders, is a class; two, or a single one alone, are splits.
    if strays and len(splits) == 1 and len(folders) > 1:
        [folder] = splits.values()
        notes.append(
            f"warning: {folder} contains folders and images, so it is read as a class called '{folder.name}'; if it is "
            "a split, put its images into class folders"
        )
        return None
    if splits and known is None and "train" not in splits:
        if len(splits) < len(folders):
            return None
        raise NoTrainingImages(
            f"{root} contains {listed([path.name for path in splits.values()])} but no train folder with class folders"
            f"; name the folder with the training images 'train', or evaluate a run on it: "
            f"vpt eval RUN data={quote(str(root))}"
        )
    return splits or None


def images_below(folder: Path, ignored: Counter[str]) -> list[Path]:
    """The image files in `folder` and its subfolders, following links, without hidden ones.

    Args:
        folder: an existing folder.
        ignored: counter of other files by extension, which is updated.

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
            if is_image(name) or has_magic(os.path.join(parent, name)):
                paths.append(Path(parent, name))
            else:
                ignored["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower()] += 1
    ignored += Counter()  # removes zero counts
    return paths


def files_below(folder: Path) -> int:
    """Number of files in `folder` and its subfolders, following links, counting each folder once.

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
    raise UserError(
        f"cannot read the folder {error.filename}: {error.strerror}; make it readable, or move it elsewhere"
    )


def _listing(folder: Path) -> tuple[list[str], list[str], Counter[str]]:
    """Names of the folders and of the images in `folder`, sorted, and the kinds of its other files."""
    try:
        with os.scandir(folder) as scan:
            items = sorted((item.name, item.is_dir()) for item in scan)
    except FileNotFoundError:
        raise UserError(f"there is no folder {folder}; check data.path") from None
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}; check data.path") from None
    folders = [name for name, is_folder in items if is_folder and not name.startswith((".", "__MACOSX"))]
    files = [name for name, is_folder in items if not is_folder]
    images = [name for name in files if is_image(name) or has_magic(folder / name)]
    others = sorted(set(files).difference(images))
    kinds = ("hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() for name in others)
    return folders, images, Counter(kinds)


def _hidden_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as scan:
        return [item.name for item in scan if item.is_dir() and item.name.startswith((".", "__MACOSX"))]


def _refuse_flat(folder: Path, folders: list[str], images: list[str]) -> None:
    if folders:
        return
    if images:
        tables = sorted(folder.glob("*.csv"))
        if len(tables) == 1:
            raise UserError(f"{folder} contains images outside any class folder; did you mean data={tables[0]}?")
        raise UserError(
            f"{folder} contains {number_of(len(images), 'image')} outside any class folder; put each into a folder "
            "named after its class, or list them in a CSV file with the columns path,label"
        )
    raise UserError(f"{folder} is empty: it should contain a folder of images for each class")


def nested(root: Path) -> Path | None:
    """The folder one level below `root` that is meant instead: the only one, if it contains folders with images.

    >>> nested(Path("no/such/folder")) is None
    True
    """
    if not root.is_dir():
        return None
    folders, images, _ = _listing(root)
    if images or len(folders) != 1:
        return None
    inner = root / folders[0]
    holding = [name for name in _listing(inner)[0] if images_below(inner / name, Counter())]
    return inner if len(holding) > 1 else None


def _refuse_nested(folder: Path) -> None:
    """Refuse a path one folder too high, where whole data sets would be read as classes."""
    folders, images, _ = _listing(folder)
    splits = {SPLIT_NAMES.get(name.lower()) for name in folders}
    if not images and {"train", "test"} <= splits | ({"test"} if "val" in splits else set()):
        raise UserError(f"{folder} is a complete data set, with {listed(folders)}; set data.path={folder}")


def hint(ignored: Counter[str]) -> str:
    """Message for folders without images.

    >>> hint(Counter([".txt"])), hint(Counter())
    ('found only .txt', 'add some')
    """
    if ignored:
        return f"found only {', '.join(kind or 'files without extension' for kind in list(ignored)[:8])}"
    return "add some"
