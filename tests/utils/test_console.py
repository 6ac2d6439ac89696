"""Messages of a run on the terminal, in the run's log and in handlers that a user adds."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vpt.utils.console import Console
from vpt.utils.errors import WriteError
from vpt.utils.run_log import RunLog


def _speak(console: Console) -> None:
    console.say("100% of [bold]it[/bold] %s")
    console.warn("take care")
    console.table("found", ["a", "[/b]"], [["1", "2"]])


def test_terminal_and_log_get_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    console = Console()
    console.say("before")
    with RunLog(tmp_path) as log:
        console.attach(log)
        _speak(console)
        console.attach(None)
        console.say("after")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["100% of [bold]it[/bold] %s", "warning: take care", "a\t[/b]", "1\t2"]
    out, err = capsys.readouterr()
    assert out == ""
    said = err.splitlines()
    assert said[:4] == ["before", "100% of [bold]it[/bold] %s", "take care", "found"]
    assert said[-1] == "after"
    assert sum("[/b]" in line for line in said) == 1


def test_a_quiet_console_writes_its_log_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    quiet, loud = Console(quiet=True), Console()
    with RunLog(tmp_path) as log:
        quiet.attach(log)
        _speak(quiet)
        loud.say("other run")
    assert capsys.readouterr().err == "other run\n"
    assert "other run" not in (tmp_path / "log.txt").read_text()


def test_another_log_takes_the_place_of_the_first(tmp_path: Path):
    console = Console(quiet=True)
    for name in ("one", "two"):
        with RunLog(tmp_path / name) as log:
            console.attach(log)
            console.say(name)
    assert [(tmp_path / name / "log.txt").read_text() for name in ("one", "two")] == ["one\n", "two\n"]


class _Kept(logging.Handler):
    """Remembers names and levels."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.levelname))


def test_handlers_of_the_user_get_every_message_and_the_root_logger_none():
    logger, users, root = logging.getLogger("vpt.run"), _Kept(), _Kept()
    logger.propagate = True  # as `logging.config` leaves it
    logger.addHandler(users)
    logging.getLogger().addHandler(root)
    try:
        _speak(Console(quiet=True))
    finally:
        logger.removeHandler(users)
        logging.getLogger().removeHandler(root)
    assert users.records == [("vpt.run", "INFO"), ("vpt.run", "WARNING"), ("vpt.run", "INFO")]
    assert not root.records


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_text: str) -> None:
        raise WriteError(tmp_path, "the disk is full")

    with RunLog(tmp_path) as log:
        monkeypatch.setattr(log, "say", full)
        console = Console(quiet=True)
        console.attach(log)
        with pytest.raises(WriteError):
            console.say("text")
