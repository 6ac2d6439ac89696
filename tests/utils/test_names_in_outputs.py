"""Names of files and classes are a stranger's: they are told as they are, and never acted upon."""

import shlex
from pathlib import Path

import pytest

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.config import RunConfig
from vpt.config.storable import refuse_unstorable
from vpt.data.class_names import clean
from vpt.experiments.benchmarks.table import _line
from vpt.inference.draw import file_name
from vpt.inference.server.api_keys import Keys, digest_of
from vpt.models.artifact import find_artifact
from vpt.models.header import CHECKPOINT
from vpt.training.run_folder import _taken, stem_of
from vpt.utils import hub
from vpt.utils.atomic_io import make_folder, write_text
from vpt.utils.console import Console
from vpt.utils.errors import UserError


def test_colons_are_no_emoji(capsys: pytest.CaptureFixture[str]):
    Console().say("run folder: runs/a:car:b, class :cat:, 12:on:30")
    Console().warn("runs/a:car:b")
    assert capsys.readouterr().err == "run folder: runs/a:car:b, class :cat:, 12:on:30\nruns/a:car:b\n"


@pytest.mark.parametrize("name", ["u" * 251 + ".txt", "\u00e9" * 125 + ".txt"])
def test_names_as_long_as_a_file_system_takes_are_written(tmp_path: Path, name: str):
    assert write_text(tmp_path / name, "text").read_text() == "text"
    assert make_folder(tmp_path / f"f{name[1:]}"[:200], lambda folder: (folder / "a").write_text("a"))


def test_drawn_files_have_short_names():
    assert len(file_name(1, f"https://example.org/{'Q' * 400}.jpg")) < 120
    assert file_name(7, "a/cat.jpg") == "0007-cat.png"


def test_a_run_of_a_folder_with_a_long_name_has_a_short_one():
    assert len(stem_of(RunConfig(data={"path": "sets/" + "d" * 240}))) < 200


@pytest.mark.parametrize(
    ("pattern", "tasks", "allowed"),
    [
        ("patients[2024]", ["patients[2024]", "patients2", "patients0"], ["patients[2024]"]),
        ("[a]*", ["[a]b", "ab"], ["[a]b"]),
        ("flowers-?", ["flowers-1", "flowers-12"], ["flowers-1"]),
    ],
)
def test_brackets_in_the_name_of_a_task_are_brackets(pattern: str, tasks: list[str], allowed: list[str]):
    assert Keys({digest_of("secret"): [pattern]}).allowed("secret", tasks) == allowed


def test_what_is_pasted_from_a_message_is_one_word(tmp_path: Path):
    folder = tmp_path / "my run;ls"
    folder.mkdir()
    (folder / CHECKPOINT).touch()
    with pytest.raises(UserError) as unfinished:
        find_artifact(folder)
    for error in (unfinished.value, _taken(folder)):
        assert shlex.split(str(error).rpartition("vpt train ")[2]) == [f"resume={folder}"]


def test_several_labels_are_joined_by_a_sign_that_none_of_them_contains(tmp_path: Path, small_net: None, shapes: Path):
    refuse_unstorable(RunConfig(), ["red|blue", "dog"])
    photos = sorted((shapes / "train").rglob("*.png"))[:8]
    lines = [f"{photo},{'red|blue;dog' if at % 2 else 'dog'}" for at, photo in enumerate(photos)]
    (tmp_path / "multi.csv").write_text("\n".join(["path,label", *lines]))
    with pytest.raises(UserError, match=r"class name 'red\|blue' contains \|"):
        vpt.train(settings(tmp_path / "multi.csv", tmp_path, "data.separator=;"), QUIET)


def test_halves_of_pairs_in_json_become_text():
    assert clean("\ud800x") == "\\ud800x"
    assert clean("caf\udce9") == "caf\\xe9"


def test_markdown_is_escaped():
    header = {"backbone": {"name": "n", "fingerprint": "f"}, "classes": ["<script>", "a*b*", "c|d"], "metrics": {}}
    assert r"Classes: \<script\>, a\*b\*, c\|d." in hub.card(header, "owner/name")
    assert _line(["task", "a|b"]) == r"| task | a\|b |"
