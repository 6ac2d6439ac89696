"""Completion in real shells: what Tab makes of a line in bash and zsh."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vpt.cli.completion import words
from vpt.cli.main import main

pytest.importorskip("argcomplete")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vpt` to put on the PATH, a config file and a data set."""
    home = tmp_path_factory.mktemp("home")
    (home / "bin").mkdir()
    command = home / "bin" / "vpt"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vpt "$@"\n')
    command.chmod(0o755)
    (home / "photos of cats").mkdir()
    (home / "quick.yaml").write_text("")
    return home


def environment(home: Path) -> dict[str, str]:
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(home), "TERM": "dumb"}


def bash(home: Path, line: str) -> list[str]:
    """What bash's programmable completion puts into COMPREPLY."""
    script = 'eval "$(vpt completion bash)"; _python_argcomplete vpt; printf "%s\\n" "${COMPREPLY[@]}"'
    given = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment(home) | given, cwd=home, capture_output=True, text=True
    )
    return [word.strip() for word in done.stdout.splitlines()]


def test_commands_options_settings_and_values(home: Path):
    assert bash(home, "vpt tr") == ["train"]
    assert set(bash(home, "vpt data ")) >= {"check", "convert", "view"}
    assert bash(home, "vpt train --dry") == ["--dry-run"]
    assert bash(home, "vpt train train.ep") == ["train.epochs="]
    assert {"prompt=", "prompt.tokens="} <= set(bash(home, "vpt train prom"))
    # bash breaks words at `=`: what follows it is replaced.
    assert bash(home, "vpt train prompt=vf") == ["vfpt"]
    assert bash(home, "vpt predict run --format c") == ["csv", "coco"]
    assert bash(home, "vpt completion z") == ["zsh"]
    assert bash(home, "vpt config explain train.batch") == ["train.batch_size"]


def test_words():
    assert words("prompt=", ()) == [f"prompt={kind}" for kind in dict.fromkeys(word[7:] for word in words("prompt="))]
    assert {"prompt=deep", "prompt=none"} <= set(words("prompt="))
    assert words("train.schedule=co") == ["train.schedule=cosine", "train.schedule=constant"]
    assert words("preci") == ["precision="]
    assert words("batch_size=") == ["batch_size=auto"]
    assert words("train.optimizer=s") == ["train.optimizer=sgd"]
    assert words("tuning.ra") == []
    assert words("tuning.ra", ["tuning=lora"]) == ["tuning.rank="]
    assert "task=detection" in words("task=")
    assert words("task=det", ["tuning=nosuch", "x"]) == ["task=detection"]
    assert words("nosuch=") == []


def test_files_and_folders(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    assert words("qui") == ["quick.yaml"]
    assert words("data=pho") == ["data=photos of cats/"]
    assert words("data.val=pho") == ["data.val=photos of cats/"]


def test_each_shell_gets_a_script(capsys: pytest.CaptureFixture[str]):
    for shell, part in {"bash": "complete ", "zsh": "#compdef vpt", "fish": "complete --command vpt"}.items():
        assert main(["completion", shell]) == 0
        assert part in capsys.readouterr().out


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install argcomplete" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_in_a_real_shell(home: Path, shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    start = ["bash", "--norc", "--noprofile", "-i"] if shell == "bash" else ["zsh", "-f", "-i"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(home)
        os.execvpe(start[0], start, environment(home))
    try:
        compinit = "autoload -U compinit; compinit -u -D; " if shell == "zsh" else ""
        typed(terminal, f'{compinit}eval "$(vpt completion {shell})"; echo rea""dy\n', "ready")
        typed(terminal, "vpt train tuning=lo\t", "tuning=lora ")
        typed(terminal, "tuning.ra\t", "tuning.rank=")
        typed(terminal, "4 qui\t", "quick.yaml ")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


def typed(terminal: int, text: str, wanted: str) -> None:
    """Type into a terminal, and wait until it shows something."""
    os.write(terminal, text.encode())
    shown, end = "", time.monotonic() + 60
    while wanted not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 1)[0]:
            shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown + os.read(terminal, 4096).decode(errors="replace"))
