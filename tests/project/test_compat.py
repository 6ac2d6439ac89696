"""What earlier versions wrote is read with the same scores: see tests/compat.

`VPT_EXACT=1` compares to the last bit, which holds on the machine that wrote the files and on those with equal kernels.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import vpt
from tests.compat.backbones import register
from tests.compat.cases import CASES, LATER, STOPPED, pictures, settings, write_images
from tests.compat.make import EXPORTED, TASKS, answers, run_onnx
from tests.helpers.paths import TESTS
from vpt.cli.main import main
from vpt.utils.console import Console

EXACT = os.environ.get("VPT_EXACT") == "1"
VERSIONS = sorted(path for path in (TESTS / "compat").iterdir() if (path / "expected.json").is_file())
WHOLE = [path for path in VERSIONS if (path / "run").is_dir()]  # others have artifacts only
ARTIFACTS = [file for folder in VERSIONS for file in sorted((folder / "artifacts").glob("*.safetensors"))]


@pytest.fixture(scope="module", params=WHOLE, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    return request.param, json.loads((request.param / "expected.json").read_text())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return register(tmp_path_factory.mktemp("backbones"))


def assert_same(found: Any, expected: Any, loose: float = 2e-5) -> None:
    if EXACT:
        assert found == expected
        return
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = [found[key] for key in expected], list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, loose)
    elif expected is None or isinstance(expected, str):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=100 * loose, abs=loose)


def near(name: str, found: Any, expected: Any) -> None:
    """Boxes of nearly one score may change places on another machine: then only how many there are is compared. A few
    pixels of masks may change class."""
    if "boxes" in name and not EXACT:
        assert [len(one[0]) for one in found] == pytest.approx([len(one[0]) for one in expected], abs=3)
    elif "masks" in name and not EXACT:
        for one, other in zip(found, expected, strict=True):
            assert [pair[0] for pair in one.values()] == pytest.approx([pair[0] for pair in other.values()], abs=20)
            assert [pair[1] for pair in one.values()] == pytest.approx([pair[1] for pair in other.values()], abs=1e-2)
    else:
        assert_same(found, expected)


def test_every_case_has_an_artifact() -> None:
    assert {file.stem for file in ARTIFACTS} == set(CASES) | set(LATER)


@pytest.mark.parametrize("file", ARTIFACTS, ids=lambda file: file.stem)
def test_artifacts_keep_their_scores(file: Path, weights: Path) -> None:
    name, expected = file.stem, json.loads((file.parents[1] / "expected.json").read_text())
    clip = "open_clip" in " ".join((CASES | LATER)[name])
    found = vpt.load(file, weights=weights if clip else None).predict(pictures(), top=100)
    near(name, answers(found), expected["scores"][name])


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_runs_go_on(
    name: str,
    version: tuple[Path, dict[str, Any]],
    weights: Path,
    tmp_path: Path,
    small_net: None,
    whole_data: None,
) -> None:
    folder, _ = version
    run = tmp_path / name
    shutil.copytree(folder / "stopped" / name, run)
    words = settings(name, write_images(tmp_path / "images"), weights)
    moved = [word for word in words if word.startswith(("data=/", "backbone.weights="))]
    result = vpt.resume(run, moved, Console(quiet=True))
    old_file = folder / "artifacts" / f"{name}.safetensors"
    if "pruned" in name:  # stored in another form since, of the same values
        loaded = [vpt.load(file).model for file in (result.artifact, old_file)]
        new, old = (model.owned_state() for model in loaded)
    else:
        new, old = load_file(result.artifact), load_file(old_file)
    assert new.keys() == old.keys()
    for key, value in old.items():
        if EXACT:
            assert new[key].equal(value), key
        else:
            np.testing.assert_allclose(new[key].float(), value.float(), atol=1e-2, err_msg=key)


def test_banks_keep_their_scores(version: tuple[Path, dict[str, Any]], weights: Path) -> None:
    folder, expected = version
    bank = vpt.Bank()
    for name in TASKS:
        bank.add(name, folder / "artifacts" / f"{name}.safetensors")
    several = [picture for picture in pictures() for _ in TASKS]
    found = answers(bank.predict(several, list(TASKS) * len(pictures()), top=100))
    assert_same(found, expected["bank"])


def test_exports_keep_their_scores(version: tuple[Path, dict[str, Any]], weights: Path, tmp_path: Path) -> None:
    folder, expected = version
    np.testing.assert_allclose(run_onnx(folder / f"{EXPORTED}.onnx"), expected["onnx"], atol=2e-5)
    artifact = folder / "artifacts" / f"{EXPORTED}.safetensors"
    # Squares of the model's own size are taken as they are, which was the default of version 0.1.
    assert main(["export", str(artifact), "--size", "32x32", "--output", str(tmp_path / "new.onnx")]) == 0
    np.testing.assert_allclose(run_onnx(tmp_path / "new.onnx"), expected["onnx"], atol=2e-5)


def test_finished_runs_are_read(version: tuple[Path, dict[str, Any]], tmp_path: Path, whole_data: None) -> None:
    folder, expected = version
    run = tmp_path / "nano-deep"
    shutil.copytree(folder / "run", run)
    assert_same(answers(vpt.load(run).predict(pictures(), top=100)), expected["scores"]["nano-deep"])
    told = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    # Its own test split, without the shots that chose its training images.
    assert vpt.evaluate(run, "test")["accuracy"] == pytest.approx(told)
    page = vpt.write_report([run], tmp_path / "page.html")
    assert Path(page).stat().st_size > 10_000
