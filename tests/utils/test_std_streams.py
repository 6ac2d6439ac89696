"""Processes without a terminal, without a reader, without a home folder, and with a terminal that knows ASCII alone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.machines import in_child
from tests.helpers.runs import NET, settings
from vpt.cli.main import main
from vpt.training.run import train
from vpt.utils.atomic_io import at_home
from vpt.utils.cache_dir import cache_dir, ensure_home
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows
from vpt.utils.std_streams import Messages, say

VPT = f"{sys.executable} -m vpt"


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


def words(shapes: Path, out: Path) -> list[str]:
    return [f"data={shapes}", f"out={out}", "name=run", *NET, "train.epochs=2", "data.workers=0", "prompt.tokens=2"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


class TestCommand:
    """A whole process; `config show` needs no torch and is quick."""

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, closed: str):
        done = shell(f"{VPT} config show {closed}")
        assert done.returncode == 0
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("words", ["config show", "--help"])
    def test_standard_output_on_a_full_disk(self, words: str):
        done = shell(f"{VPT} {words} > /dev/full", PYTHONUNBUFFERED="")
        assert done.returncode == 2
        assert done.stderr == "vpt: standard output cannot be written: No space left on device\n"

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_reader_that_has_read_enough(self, unbuffered: str):
        done = shell(f"{VPT} config schema | head -1; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
        assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")

    def test_ascii_alone(self, tmp_path: Path):
        (tmp_path / "é.yaml").write_text("name: café\n", encoding="utf-8")
        environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
        done = shell(f"cd {tmp_path}; {VPT} config show *.yaml; {VPT} train data=no/such/café", **environment)
        assert "caf" in done.stdout
        assert "vpt: data.path=no/such/caf\\xc3\\xa9: not UTF-8; rename it, or set LC_ALL=C.UTF-8" in done.stderr
        assert "bug" not in done.stderr

    def test_a_closed_stream_is_no_file_of_ours(self, shapes: Path, tmp_path: Path):
        """The number of a closed standard output was given to the next file, and prints went into that."""

        def child() -> int:
            for number in (0, 1):
                os.close(number)
            sys.stdin = sys.stdout = None  # type: ignore[assignment]
            code = main(["train", *words(shapes, tmp_path)])
            os.write(1, b"what a library prints\n")
            return code

        code, said = in_child(child)
        assert code == 0, said
        assert "Traceback" not in said
        assert not [
            file for file in (tmp_path / "run").rglob("*") if file.is_file() and b"library" in file.read_bytes()
        ]


def train_with(prepare: Callable[[], object], shapes: Path, out: Path) -> tuple[int, str]:
    def child() -> int:
        prepare()
        return main(["train", *words(shapes, out)])

    return in_child(child)


class TestProgress:
    """A training is not ended by who showed its progress."""

    def finished(self, folder: Path) -> bool:
        return (folder / "metrics.json").is_file() and read_rows(folder)[-1]["kind"] == "end"

    def test_a_reader_that_is_gone(self, shapes: Path, tmp_path: Path):
        def gone() -> None:
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            os.close(reader)
            os.close(writer)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115

        assert train_with(gone, shapes, tmp_path)[0] == 0
        assert self.finished(tmp_path / "run")

    def test_a_terminal_that_is_gone_in_the_middle_of_the_bar(self, shapes: Path, tmp_path: Path):
        def gone() -> None:
            ours, theirs = pty.openpty()
            os.dup2(theirs, 2)
            os.close(theirs)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            from vpt.training.trainer import Trainer

            usual, steps = Trainer.train_step, []

            def step(*more: object) -> object:
                steps.append(1)
                if len(steps) == 3:
                    os.close(ours)
                return usual(*more)  # type: ignore[arg-type]

            Trainer.train_step = step  # type: ignore[method-assign,assignment]

        assert train_with(gone, shapes, tmp_path)[0] == 0
        assert self.finished(tmp_path / "run")

    def test_a_log_on_a_full_disk(self, shapes: Path, tmp_path: Path):
        def full() -> None:
            sys.stderr = open("/dev/full", "w")  # noqa: SIM115

        assert train_with(full, shapes, tmp_path)[0] == 0
        assert self.finished(tmp_path / "run")

    def test_no_standard_error_at_all(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sys, "stderr", None)
        result = train(settings(shapes, tmp_path, "train.epochs=1"), Console())
        assert result.artifact.is_file()

    def test_a_broken_pipe_elsewhere_is_no_success(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        """It was taken for a reader that has read enough, and a training that had failed ended with code 0."""

        def broken(*_: object) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr("vpt.training.trainer.Trainer.train_step", broken)
        assert main(["train", *words(shapes, tmp_path)]) == 2
        assert "vpt: Broken pipe" in capsys.readouterr().err


class TestMessages:
    def test_nothing_is_raised(self, monkeypatch: pytest.MonkeyPatch):
        class Bad:
            encoding = "ascii"

            def __init__(self, error: Exception) -> None:
                self.error = error

            def write(self, *_: object) -> int:
                raise self.error

            flush = isatty = fileno = write

        for error in (BrokenPipeError(), OSError(5, "gone"), ValueError("closed"), RuntimeError("reentrant call")):
            monkeypatch.setattr(sys, "stderr", Bad(error))
            say("text")
            Console().say("text")
            assert Messages().write("text") == 4

    def test_a_line_is_cleaned(self, capsys: pytest.CaptureFixture[str]):
        say("a \x1b[2J b")
        assert capsys.readouterr().err == "a \\u001b[2J b\n"


class TestHome:
    """HOME is not set and the user has no entry, as in a container that runs under any number."""

    @pytest.fixture
    def homeless(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        import pwd

        def nobody(uid: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        return tmp_path / f"vpt-{os.getuid()}"

    def test_caches_are_kept_in_a_private_folder(self, homeless: Path):
        assert cache_dir() == homeless / ".cache" / "vpt"
        assert homeless.stat().st_mode & 0o777 == 0o700

    def test_a_command_gets_a_home(self, homeless: Path, capsys: pytest.CaptureFixture[str]):
        import getpass

        assert main(["data", "check", "digits"]) == 0
        assert f"caches are kept in {homeless}" in capsys.readouterr().err
        assert (homeless / ".cache" / "vpt" / "digits-1").is_dir()
        assert Path.home() == homeless
        assert getpass.getuser() == str(os.getuid())
        assert [path.name for path in homeless.parent.iterdir()] == [homeless.name]  # no folder called "~"
        assert ensure_home() == ""

    @pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
    def test_a_folder_that_others_prepared_is_not_used(self, homeless: Path, trap: str):
        if trap == "open to others":
            homeless.mkdir(mode=0o777)
            homeless.chmod(0o777)
        elif trap == "a link":
            (homeless.parent / "theirs").mkdir(mode=0o700)
            homeless.symlink_to(homeless.parent / "theirs")
        else:
            homeless.write_text("")
        with pytest.raises(UserError, match=r"there is no home folder.*set HOME"):
            cache_dir()

    def test_a_path_below_it_is_refused(self, homeless: Path):
        with pytest.raises(UserError, match="~/photos: this user has no home folder"):
            at_home("~/photos")


def test_a_home_that_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ensure_home() == ""
    assert os.environ["HOME"] == str(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "vpt"
