"""WebDataset shards: tar archives with the image and the label of a sample under one name, as in `0001.jpg` and
`0001.cls`; also as CLIP_benchmark exports its data sets.

Shards are local files, so their members are read where they are: epochs are shuffled by the seed as any other data, and
resumed exactly. Nothing is extracted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vpt.data.dataset import Item
from vpt.data.datasets.entries import SPLIT_NAMES, Entry, Found, listed, number_of
from vpt.data.datasets.split_files import read_lines
from vpt.data.datasets.tar_index import Member, read_member, tar_index
from vpt.data.decode import EXTENSIONS
from vpt.data.medical.files import KINDS
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line, shown

PREFIX = "wds:"
NAMES, TEMPLATES, COUNT = ("classes.txt", "classnames.txt"), "zeroshot_classification_templates.txt", "nshards.txt"
_IMAGES = {extension.removeprefix(".") for extension in EXTENSIONS - KINDS.keys()}
_LABELS = ("cls", "json", "txt")  # the first of them that a sample has
_KEYS = ("label", "cls", "class", "class_name", "target", "category")  # of labels in JSON
_LONGEST = 1 << 16  # bytes of a label
_MOST_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


class Shards:
    """The images of shards: `[at]` reads the bytes of one. It holds their places only, so it is cheap to copy."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._places: list[tuple[int, int, int]] = []

    def add(self, file: Path, member: Member) -> Item:
        """Add an image; returns where it is read from."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        self._places.append((len(self._files) - 1, member.offset, member.size))
        return Item(self, len(self._places) - 1)

    def __getitem__(self, at: int) -> tuple[bytes, None]:
        file, offset, size = self._places[at]
        return read_member(self._files[file], offset, size), None


def read_webdataset(name: str, label_column: str | None = None) -> Found:
    """Read shards: a tar file, names with ranges as in `train-{0000..0003}.tar`, or a folder of tar files.

    Splits are the folders of the shards (`train/`, `val/`, `test/`), or words in their names. Labels are numbers or
    names in `.cls`, `.json` or `.txt`; names of numbered classes are the lines of `classes.txt` or `classnames.txt`.

    Args:
        name: the path.
        label_column: key of the label in `.json` members; default: the usual ones.

    Raises:
        UserError: shards that are missing or damaged, samples without an image or a label.

    >>> read_webdataset("no/such")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=wds:no/such: there are no tar files there; ...
    """
    splits, root = _shards(name)
    names = _class_names(root)
    found = Found(divided=set(splits) != {"train"})
    images = Shards()
    ignored = 0
    for split, files in splits.items():
        entries: list[Entry] = []
        for file in files:
            shard = shown(os.path.relpath(file, root))
            for key, members in _samples(file):
                image = _image(file, key, members)
                if image is None:
                    ignored += 1
                    continue
                labels, several = _label(file, key, members, names, label_column)
                found.multilabel |= several
                place = one_line(f"{shard}, {key[:200]}")
                entries.append(Entry(f"{shard}/{image.name}", images.add(file, image), labels, place))
        found.splits[split] = entries
    if not any(found.splits.values()):
        raise UserError(f"data.path={PREFIX}{name}: the shards contain no images ({', '.join(sorted(_IMAGES))})")
    found.classes = names or _numbers(found)
    if ignored:
        found.notes.append(f"ignored {number_of(ignored, 'sample')} without an image")
        found.left_out["without an image"] += ignored
    return found


def own_templates(path: str) -> Path | None:
    """The file of CLIP's text templates that CLIP_benchmark writes next to the shards; None for other data.

    >>> own_templates("wds:no/such") is None, own_templates("photos") is None
    (True, True)
    """
    if not path.startswith(PREFIX):
        return None
    try:
        file = _shards(path.removeprefix(PREFIX))[1] / TEMPLATES
    except UserError:
        return None
    return file if file.is_file() else None


def _shards(name: str) -> tuple[dict[str, list[Path]], Path]:
    """The files of each split, and the folder that contains all of them."""
    path = at_home(name)
    if path.is_dir():
        folders = {SPLIT_NAMES[each.name.lower()]: each for each in path.iterdir() if each.name.lower() in SPLIT_NAMES}
        splits = {split: _tars(folder) for split, folder in sorted(folders.items()) if folder.is_dir()}
        splits = {split: files for split, files in splits.items() if files}
        if splits:
            return splits, path
        files = _tars(path)
    else:
        files = [at_home(each) for each in _expanded(name)]
        if lost := [str(file) for file in files if not file.is_file()]:
            if len(lost) == len(files):
                files = []
            else:
                raise UserError(f"data.path={PREFIX}{name}: missing {number_of(len(lost), 'shard')}: {listed(lost)}")
        path = path.parent
    if not files:
        raise UserError(
            f"data.path={PREFIX}{name}: there are no tar files there; give a folder of them, a file, or a range as in "
            "wds:shards/train-{0000..0003}.tar"
        )
    if path.name.lower() in SPLIT_NAMES and not any((path / each).is_file() for each in NAMES):
        return {SPLIT_NAMES[path.name.lower()]: files}, path.parent
    return _by_name(files), path


def _tars(folder: Path) -> list[Path]:
    """The shards in a folder, in the order of their numbers; all that `nshards.txt` counts must be there."""
    found = [file for file in folder.iterdir() if file.suffix.lower() == ".tar" and not file.name.startswith(".")]
    found.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", file.name)])
    if (folder / COUNT).is_file():
        count = "".join(read_lines(folder / COUNT))
        if count != str(len(found)):
            raise UserError(
                f"{folder / COUNT} counts {one_line(count[:20])} shards, but there are {len(found)}; get the others"
            )
    return found


def _expanded(name: str) -> list[str]:
    """File names of a range, as the webdataset package writes it."""
    found = [name]
    while (span := _RANGE.search(found[0])) is not None:
        first, last = span.groups()
        numbers = range(int(first), int(last) + 1)
        if not numbers or len(numbers) * len(found) > _MOST_SHARDS:
            raise UserError(f"data.path={PREFIX}{name}: {span.group()} is not a range of at most {_MOST_SHARDS} shards")
        found = [_RANGE.sub(f"{number:0{len(first)}d}", each, count=1) for each in found for number in numbers]
    return found


def _by_name(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Shards by the split that their names tell, as in `imagenet-val-000000.tar`; all for training if not all do."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = {SPLIT_NAMES[word] for word in re.split("[^a-z]+", file.stem.lower()) if word in SPLIT_NAMES}
        if len(words) != 1:
            return {"train": list(files)}
        splits.setdefault(words.pop(), []).append(file)
    return splits


def _samples(file: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members by sample and extension. The name of a sample ends at the first dot of the file name."""
    samples: dict[str, dict[str, Member]] = {}
    for member in tar_index(file):
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            continue  # hidden, or not a part of a sample
        parts = samples.setdefault(f"{folder}{slash}{stem}", {})
        if parts.setdefault(extension.lower(), member) is not member:
            raise UserError(f"{file} contains {one_line(member.name[:200])} twice; a sample needs a name of its own")
    yield from samples.items()


def _image(file: Path, key: str, members: dict[str, Member]) -> Member | None:
    found = [member for extension, member in members.items() if extension in _IMAGES]
    if len(found) > 1:
        names = listed([one_line(member.name) for member in found])
        raise UserError(f"{file}: the sample {one_line(key[:200])} has several images: {names}; keep one of them")
    return found[0] if found else None


def _label(
    file: Path, key: str, members: dict[str, Member], names: tuple[str, ...] | None, column: str | None
) -> tuple[tuple[str, ...], bool]:
    """The labels of a sample, and whether they are a list."""
    where = f"{file}: the sample {one_line(key[:200])}"
    kind = next((kind for kind in (_LABELS if column is None else ("json",)) if kind in members), None)
    if kind is None:
        return (), False
    _, offset, size = members[kind]
    if size > _LONGEST:
        raise UserError(f"{where} has a label of {size} bytes; is .{kind} the class?")
    try:
        text = read_member(file, offset, size).decode("utf-8-sig").strip()
        value: Any = json.loads(text) if kind == "json" else text
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} has a label that cannot be read ({error})") from None
    if isinstance(value, dict):
        keys = [each for each in (_KEYS if column is None else (column,)) if each in value]
        if not keys:
            raise UserError(
                f"{where} has no label among {listed([one_line(each) for each in value])}; set data.label_column"
            )
        value = value[keys[0]]
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool | float | list | dict) or each is None for each in values):
        raise UserError(f"{where} has the label {one_line(str(value)[:80])}; it must be the number or name of a class")
    return tuple(dict.fromkeys(_name_of(str(each).strip(), names, where) for each in values)), isinstance(value, list)


def _name_of(label: str, names: tuple[str, ...] | None, where: str) -> str:
    """The class that a label names, or numbers."""
    if names is None or label in names:
        return label
    if not label.isascii() or not label.isdigit() or len(label) > 9 or int(label) >= len(names):
        raise UserError(f"{where} has the label {one_line(label[:80])}, which is none of the {len(names)} classes")
    return names[int(label)]


def _class_names(root: Path) -> tuple[str, ...] | None:
    file = next((root / name for name in NAMES if (root / name).is_file()), None)
    if file is None:
        return None
    names = read_lines(file, "check data.path")
    if twice := sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []:
        # Two of ImageNet's classes are called crane, for example.
        names = [f"{name} ({at})" if name in twice else name for at, name in enumerate(names)]
    return tuple(names)


def _numbers(found: Found) -> tuple[str, ...] | None:
    """Numbered classes in their order, as text would be sorted 0, 1, 10, 2; None for names."""
    entries = found.splits.get("train") or [entry for part in found.splits.values() for entry in part]
    labels = {label for entry in entries for label in entry.labels}
    if not labels or not all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels):
        return None
    return tuple(sorted(labels, key=lambda label: (int(label), label)))
