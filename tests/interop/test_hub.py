"""Push and pull against a double of the hub: a folder in the layout of the hub's cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vpt
from tests.helpers.bank_tasks import make
from vpt.cli.main import main
from vpt.models.artifact import read_artifact
from vpt.utils.errors import UserError
from vpt.utils.hub import push

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Double:
    """Takes uploads and lays them out as huggingface_hub's cache does."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def _folder(self, name: str) -> Path:
        return self.cache / f"models--{name.replace('/', '--')}"

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> None:
        (self._folder(repo_id) / "refs").mkdir(parents=True, exist_ok=exist_ok)
        (self._folder(repo_id) / "refs" / "main").write_text(COMMIT)

    def upload_file(self, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str, commit_message: str) -> None:
        target = self._folder(repo_id) / "snapshots" / COMMIT / path_in_repo
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(path_or_fileobj, bytes):
            target.write_bytes(path_or_fileobj)
        else:
            shutil.copy(path_or_fileobj, target)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return tmp_path / "hub"


def test_what_was_pushed_is_pulled_and_predicts_the_same(tmp_path: Path, cache: Path):
    artifact = make(tmp_path, "deep", 1)
    found = read_artifact(artifact)
    header = {"backbone": found.backbone, "classes": found.classes, "metrics": {"test": {"accuracy": 0.9123}}}
    assert push(artifact, header, "somebody/flowers", api=Double(cache)) == "hf:somebody/flowers"
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mine = vpt.load("hf:somebody/flowers", device="cpu").predict(photo)
    assert mine == vpt.load(artifact, device="cpu").predict(photo)
    card = (cache / "models--somebody--flowers" / "snapshots" / COMMIT / "README.md").read_text()
    assert found.backbone["fingerprint"] in card
    assert "| test | accuracy | 0.9123 |" in card
    assert 'vpt.load("hf:somebody/flowers")' in card


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf:somebody/nothing", "is not in the cache and the hub cannot be reached"),
        ("hf:a/b/c", "as hf:owner/name"),
        ("hf:", "as hf:owner/name"),
    ],
)
def test_what_is_not_there_is_one_sentence(cache: Path, address: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        vpt.load(address)


def test_push_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = make(tmp_path, "probe", 2)
    assert main(["push", str(artifact), "noowner"]) == 2
    assert "as owner/name" in capsys.readouterr().err
    assert main(["push", str(artifact), "some/body"]) == 2  # no way to the hub from the tests
    assert "cannot be pushed" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), "some/body"]) == 2


def test_without_a_network_a_push_says_so(tmp_path: Path):
    httpx = pytest.importorskip("httpx")

    class Unreachable(Double):
        def create_repo(self, *_: object, **__: object) -> None:
            raise httpx.ConnectError("[Errno -2] Name or service not known")

    with pytest.raises(UserError, match=r"somebody/flowers cannot be pushed: .* Name or service not known"):
        push(tmp_path / "a", {}, "somebody/flowers", api=Unreachable(tmp_path))
