"""The file format notices damage anywhere, and replaces files whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from vpt.utils import atomic_io
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors, write_tensors


@pytest.fixture
def written(tmp_path: Path) -> Path:
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "count": torch.tensor(3),
        "none": torch.zeros(0, 2),
    }
    return write_tensors(tmp_path / "file.safetensors", tensors, {"kind": "test", "name": "naïve"})


def test_what_was_written_is_read(written: Path):
    tensors, header = read_tensors(written)
    assert header == {"kind": "test", "name": "naïve"}
    assert tensors["half"].dtype == torch.bfloat16
    assert tensors["none"].shape == (0, 2)
    again = write_tensors(written.with_name("again"), tensors, header)
    assert again.read_bytes() == written.read_bytes()


def test_any_damage_is_noticed(written: Path):
    original = written.read_bytes()
    tensors, header = read_tensors(written)
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(original)
        if chance.random() < 0.5:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(damaged)) :]
        written.write_bytes(bytes(damaged))
        try:
            found, found_header = read_tensors(written)
        except UserError:
            continue
        # A flip in JSON's white space changes nothing that is read.
        assert found_header == header
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_tied_and_strided_tensors_are_kept(tmp_path: Path):
    base = torch.arange(6.0).view(2, 3)
    path = write_tensors(tmp_path / "t", {"a": base.t(), "b": base, "c": base[0]}, {})
    tensors, _ = read_tensors(path)
    assert torch.equal(tensors["a"], base.t())
    assert torch.equal(tensors["c"], base[0])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = atomic_io.write_text(tmp_path / "a.txt", "old")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_io.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        atomic_io.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_named(tmp_path: Path):
    import safetensors.torch

    plain = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, plain)
    with pytest.raises(UserError, match="was not written by vpt"):
        read_tensors(plain)
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "missing")
