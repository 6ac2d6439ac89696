"""A folder of tasks: which files are noticed, and what strangers learn of those that are not served."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import vpt
from tests.compat.backbones import register
from tests.helpers import hostile_artifacts as hostile
from tests.helpers.hostile_artifacts import mutate
from vpt.inference.server.watch_folder import TaskFolder


@pytest.fixture(scope="module", autouse=True)
def _backbones(tmp_path_factory: pytest.TempPathFactory) -> None:
    register(tmp_path_factory.mktemp("backbones"))


def artifact(target: Path, *classes: str) -> Path:
    return hostile.with_header("small-deep-drop", target, classes=list(classes))


@pytest.mark.parametrize("way", ["renamed onto it", "written into it"])
def test_a_file_of_the_same_size_and_time_is_noticed(way: str, tmp_path: Path):
    served, elsewhere = tmp_path / "served", tmp_path / "other.safetensors"
    served.mkdir()
    file = artifact(served / "task.safetensors", "cat", "dog", "owl")
    folder = TaskFolder(served, vpt.Bank(device="cpu"))
    assert folder.refresh()
    assert not folder.refresh()
    before = file.stat()
    artifact(elsewhere, "cow", "pig", "hen")
    if way == "renamed onto it":
        os.utime(elsewhere, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(elsewhere, file)
    else:
        file.write_bytes(elsewhere.read_bytes())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert folder.refresh()
    assert folder.bank.info("task").classes == ("cow", "pig", "hen")


def test_strangers_learn_no_paths_and_no_content(tmp_path: Path):
    secret, served = tmp_path / "secret.txt", tmp_path / "served"
    secret.write_text("the first line\n")
    served.mkdir()
    shutil.copy(hostile.ARTIFACTS / "small-deep-drop.safetensors", served / "good.safetensors")
    hostile.changed("clip-coop", served / "templates.safetensors", head__templates=str(secret))
    hostile.changed("nano-deep", served / "weights.safetensors", backbone__weights=str(secret))
    hostile.changed("nano-deep", served / "folder.safetensors", backbone__name=f"open_clip:local-dir:{tmp_path}")
    hostile.changed("small-deep-drop", served / "layers.safetensors", prompt__layers="the first line")
    tensors, tree = mutate.load(hostile.ARTIFACTS / "small-deep-drop.safetensors")
    mutate.write(served / "field.safetensors", tensors, json.dumps({**tree, "the first line": 1}))
    (served / "cut.safetensors").write_bytes(b"the first line")
    folder = TaskFolder(served, vpt.Bank(device="cpu"))
    folder.refresh()
    assert set(folder.bad) == {"templates", "weights", "folder", "layers", "field", "cut"}
    shown = " ".join(folder.bad.values())
    assert str(tmp_path) not in shown
    assert "the first line" not in shown
    assert len(folder.bank) == 1
