"""Class folders: one folder for each class, alone or within train/, val/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from vpt.data.entries import SPLIT_NAMES, Entry, Found, ignored_note, is_image, listed, number_of
from vpt.errors import UserError
from vpt.names import as_utf8, one_line, shown


def read_folder(root: Path) -> Found:
    """Find the images below `root`. Images may lie deeper than their class folder.

    A folder called train, training, ... is a split when it holds folders and no images; so a class may be called
    "train" too.

    Raises:
        UserError: no such folder, no class folders, classes without training images, or no images at all.
    """
    folders, images, ignored = _listing(root)
    splits = _split_folders(root, folders)
    found = Found()
    if splits is None:
        _refuse_flat(root, folders, images)
        found.splits["train"] = _classes(root, root, ignored)
        ignored.update(os.path.splitext(image)[1].lower() for image in images)
    else:
        for split, folder in splits.items():
            inner_folders, inner_images, _ = _listing(folder)
            _refuse_flat(folder, inner_folders, inner_images)
            found.splits[split] = _classes(root, folder, ignored)
        left = [name for name in folders if root / name not in splits.values()]
        if left or images:
            found.notes.append(f"beside the split folders of {root} these were ignored: {listed(left + images)}")
    found.notes += ignored_note(ignored)
    return found


def read_split_folder(folder: Path) -> Found:
    """Find the images of one split, given as a folder of class folders. Its entries are under "train"."""
    folders, images, ignored = _listing(folder)
    _refuse_flat(folder, folders, images)
    found = Found({"train": _classes(folder, folder, ignored)})
    found.notes += ignored_note(ignored)
    return found


def _split_folders(root: Path, folders: list[str]) -> dict[str, Path] | None:
    """The split folders of `root` by our names, or None when its folders are classes."""
    splits: dict[str, Path] = {}
    for name in folders:
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            continue
        inner, images, _ = _listing(root / name)
        if not inner or images:
            continue
        if split in splits:
            raise UserError(f"{root} holds both {splits[split].name}/ and {name}/; remove or rename one of them")
        splits[split] = root / name
    if splits and "train" not in splits:
        if len(splits) < len(folders):
            return None
        raise UserError(
            f"{root} holds {listed([path.name for path in splits.values()])} but no train folder with class folders; "
            "name the folder with the training images 'train'"
        )
    return splits or None


def _classes(root: Path, folder: Path, ignored: Counter[str]) -> list[Entry]:
    """The entries of all class folders in `folder`, named relative to `root`, in order of class and path."""
    entries: list[Entry] = []
    empty: list[str] = []
    for name in _listing(folder)[0]:
        _refuse_nested(folder / name)
        paths = images_below(folder / name, ignored)
        label = one_line(as_utf8(name))
        entries += [Entry(shown(path.relative_to(root)), path, (label,)) for path in paths]
        if not paths:
            empty.append(label)
    if not entries:
        raise UserError(f"there are no images in the class folders of {folder}; {hint(ignored)}")
    # A split for validation or test may lack classes, but training cannot.
    if empty and (folder == root or SPLIT_NAMES.get(folder.name.lower()) == "train"):
        raise UserError(f"class folders without images in {folder}: {listed(empty)}; add images or remove the folders")
    return entries


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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image(name):
                paths.append(Path(parent, name))
            else:
                ignored["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower()] += 1
    return paths


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
