"""Short names of settings: what a newcomer types is understood, or answered with the full names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vpt
from vpt.cli.main import main
from vpt.cli.train import COMMON
from vpt.config import DeepPrompt, full_words, load_config
from vpt.config.describe import described
from vpt.config.short_names import ALIASES, chosen_settings, full_name, is_full, meant, shortest
from vpt.utils.console import Console
from vpt.utils.errors import UserError

TYPED = {
    "data=flowers": "data=flowers",
    "dataset=flowers": "data=flowers",
    "model=vit_tiny_patch16_224": "backbone=vit_tiny_patch16_224",
    "model.image_size=96": "backbone.image_size=96",
    "epochs=3": "train.epochs=3",
    "batch_size=8": "train.batch_size=8",
    "image_size=96": "backbone.image_size=96",
    "seed=1": "train.seed=1",
    "device=cpu": "train.device=cpu",
    "workers=0": "data.workers=0",
    "augment=none": "data.augment=none",
    "tokens=5": "prompt.tokens=5",
    "shots=4": "data.shots=4",
    "optimizer=sgd": "train.optimizer=sgd",
    "lr.prompt=0.1": "train.optimizer.lr.prompt=0.1",
    "optimizer.lr=0.1": "train.optimizer.lr=0.1",
    "loss=cross_entropy": "train.loss=cross_entropy",
}


@pytest.mark.parametrize(("short", "full"), TYPED.items(), ids=TYPED)
def test_a_short_name_is_its_setting(short: str, full: str):
    assert full_words([short]) == [full]
    assert load_config(overrides=[short]) == load_config(overrides=[full])


def test_every_setting_that_can_be_told_by_its_last_part_has_a_short_name():
    """The rule, not a list: the last part of a full name is accepted unless several settings of the run have it."""
    names = {one.key for one in chosen_settings({})}
    ends = [name.rpartition(".")[2] for name in names]
    tried = 0
    for name in names:
        end = name.rpartition(".")[2]
        if ends.count(end) == 1 and not is_full(end) and end not in ALIASES:
            assert full_name(end, {}) == name
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("words", "full"),
    [
        (["rank=2", "tuning=lora"], "tuning.rank=2"),
        (["rank=2", "prompt=bpt"], "prompt.rank=2"),
        (["momentum=0.5", "optimizer=sgd"], "train.optimizer.momentum=0.5"),
        (["size=64", "task=detection"], "head.size=64"),
        (["tokens=5", "task=detection"], "prompt.tokens=5"),
        (["size=64", "prompt=pixel"], "prompt.size=64"),
    ],
)
def test_the_chosen_kinds_decide(words: list[str], full: str):
    assert full_words(words)[0] == full


def test_the_kinds_of_a_file_decide_too(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("tuning: lora\n")
    assert load_config(file, ["rank=2"]).tuning.rank == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("lr=0.1", ["'train.optimizer.lr'", "'train.optimizer.lr.prompt'", "or 'train.optimizer.lr.backbone'?"]),
        ("learning_rate=0.1", ["unknown key 'learning_rate'", "'train.optimizer.lr.head'"]),
        ("init=probe", ["did you mean 'prompt.init' or 'head.init'?"]),
        (
            "rank=2",
            [
                "did you mean 'prompt.rank' of prompt=bpt, sa2vp, adapter, pixel, clip_lora, mmrlpp or "
                "'tuning.rank' of tuning=lora?"
            ],
        ),
        ("epoch=3", ["did you mean 'train.epochs'?"]),
        ("batchsize=3", ["did you mean 'train.batch_size'?"]),
        ("modle=a", ["did you mean 'backbone'?"]),
        ("prompt.lr=0.1", ["'train.optimizer.lr.prompt'"]),
        ("train.workers=0", ["did you mean 'data.workers'?"]),
        ("train.data=photos", ["did you mean 'data'?"]),
    ],
)
def test_a_name_of_several_settings_or_of_none_is_answered_with_full_names(word: str, names: list[str]):
    with pytest.raises(UserError) as caught:
        load_config(overrides=[word])
    assert all(name in str(caught.value) for name in names)


def test_files_keep_full_names(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\n")
    with pytest.raises(UserError, match=r"unknown key 'epochs'; did you mean 'train\.epochs'\?"):
        load_config(file)
    with pytest.raises(UserError, match=r"did you mean 'train\.epochs'\?"):
        load_config(base={"epochs": 3})


def test_a_name_of_very_many_settings_is_answered_with_some_of_them():
    """As when a section is named where there is none."""
    said = meant("train", {})
    assert re.search(r"did you mean 'train\.\w+', .* or another of \d+\?", said)
    assert len(said) < 300


def test_every_part_of_a_name_is_answered():
    for part in {part for one in described() for part in one.key.split(".")}:
        assert len(meant(part, {})) < 300, part


def test_keywords_of_python():
    config = load_config(data="flowers", epochs=3, prompt=DeepPrompt(tokens=4), seed=2)
    assert config == load_config(overrides=["data=flowers", "train.epochs=3", "prompt.tokens=4", "train.seed=2"])
    assert config.with_(epochs=5).train.epochs == 5
    assert load_config(task="detection", **{"head.size": 64}).head.size == 64  # type: ignore[union-attr]
    with pytest.raises(UserError, match="'lr'"):
        config.with_(lr=0.1)


def test_train_takes_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[vpt.RunConfig] = []

    def stop(config: vpt.RunConfig, _console: Console) -> None:
        told.append(config)
        raise UserError("far enough")

    monkeypatch.setattr("vpt.training.run.prepare_run", stop)
    for config in (None, load_config(prompt="shallow")):
        with pytest.raises(UserError, match="far enough"):
            vpt.train(config, Console(quiet=True), epochs=3, out=tmp_path)
    assert [(one.train.epochs, one.out, one.prompt.kind) for one in told] == [
        (3, tmp_path, "deep"),
        (3, tmp_path, "shallow"),
    ]


def test_the_help_of_train_lists_common_settings_with_their_defaults(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert len(COMMON) == 20
    defaults = {one.key: one.default for one in described()}
    rows = dict(re.findall(r"^  ([\w.]+)=(\S*) ", text, re.MULTILINE))
    usual = {shortest(key): key for key in COMMON}
    assert rows.keys() == usual.keys()
    assert full_words([f"{name}=" for name in rows if name not in ("data", "backbone")]) == [
        f"{key}=" for name, key in usual.items() if name not in ("data", "backbone")
    ]
    assert rows["batch_size"] in {one.default for one in described("train.batch_size")}
    assert defaults["train.seed"] == rows["seed"]
    assert "vpt config explain" in text
