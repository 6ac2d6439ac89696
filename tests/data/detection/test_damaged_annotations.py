"""Data sets with damaged files: whatever is in them, the user gets one sentence, and nothing outside is touched."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import annotation_tools as exports
from vpt.config import DataConfig
from vpt.data.detection.inventory import report
from vpt.data.detection.registry import numbered, read_boxes
from vpt.utils.errors import UserError

PIECES = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"..", b"/", b"//", b"-1", b"1e999", b"nan", b"null", b"[]", b"{}", b"'"]
PIECES += [b'"', b"\n", b"&", b"<", b"*", b"[", b"9" * 400, b"\xe2\x80\x8b", b"~", b"!!int x", b"\\", b"%s", b"{x}"]
PIECES += [b" " * 50, b"&a *a", b"../../../etc/passwd", b"/etc/passwd", b"C:\\x"]
NAMES = ["x", "test", "[a]", "a*", "data", "train"]


def damage(folder: Path, chance: random.Random) -> None:
    """Cut, overwrite or rename some files that are no pictures."""
    for _ in range(chance.randint(1, 3)):
        file = chance.choice(sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".jpg"))
        content = bytearray(file.read_bytes())
        at = chance.randint(0, len(content))
        kind = chance.randint(0, 4)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at:at] = chance.choice(PIECES)
        elif kind == 2:
            content[at : at + chance.randint(1, 20)] = chance.choice(PIECES)
        elif kind == 3:
            content[at : at + 1] = bytes([chance.randrange(256)])
        else:
            file.rename(file.with_name(chance.choice(NAMES) + file.suffix))
            continue
        file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "write",
    [
        exports.roboflow_coco,
        exports.roboflow_yolo,
        exports.roboflow_voc,
        exports.roboflow_darknet,
        exports.cvat_voc,
        exports.cvat_yolo,
        exports.cvat_pose,
        exports.label_studio_coco_elsewhere,
        exports.label_studio_yolo,
    ],
    ids=lambda write: write.__name__,
)
def test_damaged_files_end_in_a_sentence(tmp_path: Path, write: Callable[[Path], None]):
    write(tmp_path / "whole")
    for seed in range(40):
        chance = random.Random(f"{write.__name__} {seed}")
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder, chance)
        config = DataConfig(path=str(folder), on_bad=chance.choice(["error", "skip"]))
        found, message = None, ""
        with contextlib.suppress(UserError):
            try:
                found, sources = read_boxes(config)
                data = numbered(found, config)
                message = "".join([*data.notes, report(data, sources)])
            except UserError as error:
                message = str(error)
                raise
        assert message.replace("\n", "").isprintable()
        if found is None:
            continue
        for entries in found.splits.values():
            assert all(entry.source.resolve().is_relative_to(folder.resolve()) for entry in entries)


@pytest.mark.parametrize("key", ["train", "path"])
def test_places_that_cannot_be(tmp_path: Path, key: str):
    exports.roboflow_yolo(tmp_path)
    for text in ("9" * 400, "a/" * 3000, "\\0"):
        said = {"train": "train/images", "path": "."} | {key: f'"{text}"'}
        lines = [f"{name}: {value}" for name, value in said.items()]
        (tmp_path / "data.yaml").write_text("\n".join([*lines, "names: [cat, dog]"]))
        config = DataConfig(path=str(tmp_path))
        if key == "path":
            assert "which does not exist; using its own folder instead" in "\n".join(read_boxes(config)[0].notes)
        else:
            with pytest.raises(UserError, match="there is no folder or list"):
                read_boxes(config)
