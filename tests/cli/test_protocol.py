"""`vpt protocol`: what it asks for, and mistakes, which are named before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpt.cli.main import main
from vpt.experiments import protocols

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Settings of the runs, which are not trained."""
    words: list[str] = []

    def measured(config: object, name: str, more: Any, console: object) -> dict[str, float]:
        words.append(f"{name}: {' '.join(more)}")
        return {"accuracy": 0.5 + 0.01 * len(words)}

    monkeypatch.setattr(protocols, "measured", measured)
    monkeypatch.setattr(protocols, "_elsewhere", measured)
    monkeypatch.chdir(tmp_path)
    return words


WORDS = ["data=digits", "backbone=vpt_nano"]


def test_few_shot(runs: list[str], capsys: Capture):
    given = ["protocol", "few-shot", *WORDS, "--shots", "1", "8", "--seeds", "4", "5", "--format", "json"]
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["shots"] for row in found["rows"]] == [1, 8]
    assert found["rows"][0]["seeds"] == [0.51, 0.52]
    assert runs[3] == "8-shot-seed5: data.shots=8 data.val_shots=4 data.split_seed=5 train.seed=5"
    assert main(["protocol", "few-shot", *WORDS, "--seeds", "1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "4", "8", "16"]


def test_transfer(runs: list[str], capsys: Capture):
    given = ["protocol", "transfer", *WORDS, "--to", "digits", "digits", "--seeds", "1", "--shots", "2"]
    assert main(given) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["digits", "51.0", "+-", "0.0"]
    assert runs[1].startswith("2-shot-transfer-seed1: data.path=digits data.val=null data.test=null")
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: protocol"),
        (["fewshot"], "invalid choice: 'fewshot'"),
        (["few-shot", "nonsense"], "as in data=nonsense"),
        (["few-shot", "promt=deep"], "did you mean 'prompt'?"),
        (["few-shot", "data=/nowhere"], "/nowhere"),
        (["few-shot", *WORDS, "--shots", "many"], "--shots: invalid int value: 'many'"),
        (["few-shot", *WORDS, "--shots", "0"], "shots 0: give different numbers of at least 1"),
        (["few-shot", *WORDS, "--seeds", "1", "1"], "seeds 1 1: give different numbers of at least 0"),
        (["few-shot", *WORDS, "--seeds", "-3"], "seeds -3: give different numbers"),
        (["few-shot", *WORDS, "--to", "digits"], "--to names data sets for vpt protocol transfer"),
        (["few-shot", "task=detection"], "measures accuracy, which task=detection does not have"),
        (["base-to-new", *WORDS], "head=linear supports the classes of its training only"),
        (["base-to-new", *WORDS, "--shots", "1", "2"], "--shots: base-to-new takes one number"),
        (["transfer", *WORDS], "transfer needs other data sets to test on: --to DATA"),
        (["transfer", *WORDS, "--to", "/nowhere"], "/nowhere"),
        (["transfer", *WORDS, "--to", "torchvision:CIFAR11"], "did you mean"),
    ],
)
def test_mistakes(words: list[str], sentence: str, runs: list[str], capsys: Capture):
    assert main(["protocol", *words]) == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert "Traceback" not in text
    assert text.count("\n") == 1
    assert runs == []


def test_data_without_an_accuracy(tmp_path: Path, runs: list[str], capsys: Capture):
    """It was a KeyError after the first training."""
    rows = ["image,labels,split"]
    for number in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'cat|dog' if number % 2 else 'cat'},{'test' if number > 8 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert main(["protocol", "few-shot", f"data={tmp_path}/labels.csv", "backbone=vpt_nano"]) == 2
    assert "data with several labels an image does not have" in capsys.readouterr().err
    (tmp_path / "labels.csv").write_text("\n".join(rows[:10]).replace("cat|dog", "dog"))
    assert main(["protocol", "few-shot", f"data={tmp_path}/labels.csv", "backbone=vpt_nano"]) == 2
    assert "has no test split, which a protocol needs" in capsys.readouterr().err
    assert runs == []
