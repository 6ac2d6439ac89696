"""`compare=none,lora`: any method next to a run, without quotes in any shell."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.doc_commands import console_lines
from tests.helpers.paths import ROOT
from tests.helpers.runs import settings
from vpt.config import load_config
from vpt.models.artifact import read_artifact
from vpt.training.compared_runs import compared_configs, folder_name
from vpt.training.run import resume, train
from vpt.utils.console import Console
from vpt.utils.errors import UserError

QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("word", "methods"),
    [
        ("compare=none", ["none"]),
        ("compare=none,lora", ["none", "lora"]),
        ("compare=lora, full ,none", ["lora", "full", "none"]),
        ("compare=[none]", ["none"]),
        ("compare=[none, shallow]", ["none", "shallow"]),
        ("compare=", []),
        ("compare=[]", []),
    ],
)
def test_methods_are_listed_with_or_without_brackets(word: str, methods: list[str]):
    assert load_config(overrides=[word]).compare == methods
    assert load_config(compare=word.partition("=")[2].strip("[]") or []).compare == methods


@pytest.mark.parametrize(
    ("plain", "bracketed"),
    [
        (["prompt.layers=0,4,8"], ["prompt.layers=[0,4,8]"]),
        (["train.milestones=0.2,0.5"], ["train.milestones=[0.2,0.5]"]),
        (["train.class_weights=1,2.5"], ["train.class_weights=[1,2.5]"]),
        (["data.window=0,4095"], ["data.window=[0,4095]"]),
        (["head=mlp", "head.hidden=64"], ["head=mlp", "head.hidden=[64]"]),
        (
            ["task=detection", "head.taps=1,3", "head.scales=1,0.5"],
            ["task=detection", "head={taps: [1,3], scales: [1,0.5]}"],
        ),
        (["tuning=lora", "tuning.targets=qkv,proj"], ["tuning=lora", "tuning.targets=[qkv,proj]"]),
    ],
)
def test_every_list_of_settings_needs_no_brackets(plain: list[str], bracketed: list[str]):
    assert load_config(overrides=plain) == load_config(overrides=bracketed)


def test_a_method_is_the_whole_method():
    config = load_config(overrides=["tuning=lora", "tuning.rank=2", "compare=lora,full,none,shallow"])
    others = compared_configs(config)
    found = [(other.prompt.kind, other.tuning.kind, folder_name(other), other.compare) for other in others]
    assert found == [
        ("none", "lora", "compare-lora", []),
        ("none", "full", "compare-full", []),
        ("none", "frozen", "compare-none", []),
        ("shallow", "frozen", "compare-shallow", []),
    ]
    assert others[0].tuning == config.tuning


def test_an_unknown_method_is_named_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(UserError, match="compare=lorra does not exist; did you mean 'lora'"):
        train(load_config(compare="none,lorra", out=tmp_path), QUIET)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("small_net")
def test_tunings_are_trained_next_to_a_run(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    words = ["compare=lora,full,none", "tuning=bias", "train.epochs=1", "data.augment=none"]
    run = train(settings(shapes, tmp_path, *words)).folder
    kinds = [(run, ("deep", "bias")), *((run / f"compare-{kind}", ("none", kind)) for kind in ("lora", "full"))]
    for folder, wanted in [*kinds, (run / "compare-none", ("none", "frozen"))]:
        config = read_artifact(folder).config
        assert (config.prompt.kind, config.tuning.kind) == wanted
    lines = caplog.text
    assert lines.count("is trained together with deep prompts; without prompts: add prompt=none") == 1
    table = lines[lines.rindex("method\tcorrect") :]
    for method in ("deep prompts and bias tuning", "LoRA", "full fine-tuning", "linear probe"):
        assert len(re.findall(rf"^{method}\t", table, re.MULTILINE)) == 1
    shutil.rmtree(run / "compare-full")
    assert resume(run, console=QUIET).folder == run
    assert read_artifact(run / "compare-full").config.tuning.kind == "full"


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_need_no_quotes_in_zsh(page: Path):
    """An unquoted `[` is a pattern there, and a pattern without a file is an error."""
    for line in console_lines(page.read_text(encoding="utf-8")):
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", line).partition(" #")[0]
        assert not re.search(r"=\S*[\[{?]", bare), line


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_passes_the_words_on():
    found = subprocess.run(["zsh", "-fc", "print -- compare=none,lora"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "compare=none,lora"
