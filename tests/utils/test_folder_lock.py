"""Two processes in one folder: the second is refused, by a lock that ends with its holder."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import filelock
import pytest

from tests.helpers.machines import other_process, wait_for
from tests.helpers.runs import NET, QUIET, settings
from vpt.experiments.benchmarks import run as running
from vpt.experiments.benchmarks.run import Bench
from vpt.experiments.benchmarks.suites import SUITES
from vpt.experiments.protocols import few_shot
from vpt.experiments.sweep.search_space import read_space
from vpt.experiments.sweep.study import Sweep, sweep
from vpt.training.run import resume, train
from vpt.utils import folder_lock
from vpt.utils.errors import UserError
from vpt.utils.folder_lock import HOLDER, LOCK, lock_folder

LONG = ["train.epochs=100000", "train.checkpoint_minutes=0", "data.workers=0"]


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


def kill(process: BaseProcess) -> None:
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


def taken(folder: Path, process: BaseProcess) -> str:
    return f"{folder} is in use by process {process.pid} on .*; wait until it ends, or stop it"


def has_begun(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "log.jsonl").is_file() and (folder / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_is_trained_by_one_process(shapes: Path, tmp_path: Path, workers: int):
    """Also when the killed one leaves processes behind that load images."""
    config = settings(shapes, tmp_path, *LONG, f"data.workers={workers}")
    with other_process(lambda: train(config, QUIET)) as first:
        wait_for(has_begun(tmp_path / "run"))
        before = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
        with pytest.raises(UserError, match=taken(tmp_path / "run", first)):
            resume(tmp_path / "run", console=QUIET)
        assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == before
        kill(first)
        with lock_folder(tmp_path / "run"):  # free again, with nobody's help
            pass


def test_refusing_comes_before_long_work(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    monkeypatch.setattr("vpt.training.run.prepare", lambda *_: pytest.fail("the data was read"))

    def holding() -> None:
        with lock_folder(tmp_path / "run"):
            signal.pause()

    with other_process(holding) as first:
        wait_for((tmp_path / "run" / f"{LOCK}{HOLDER}").is_file)
        with pytest.raises(UserError, match=taken(tmp_path / "run", first)):
            resume(tmp_path / "run", console=QUIET)


def a_sweep(shapes: Path, out: Path, *more: str, **rest: Any) -> Sweep:
    words = [f"data={shapes}", f"out={out}", "name=sweep", *NET, "data.workers=0", "prompt.tokens=2", *more]
    return Sweep(words, read_space(["prompt.tokens=1,2"]), trials=2, grid=True, **rest)


def test_a_sweep_is_of_one_process(shapes: Path, tmp_path: Path):
    """The second one took the first one's trial away, and both broke."""
    plan = a_sweep(shapes, tmp_path, "train.epochs=100000")
    with other_process(lambda: sweep(plan, QUIET)) as first:
        wait_for(lambda: any(has_begun(trial)() for trial in (tmp_path / "sweep" / "trials").glob("*")))
        journal = (tmp_path / "sweep" / "journal.log").read_bytes()
        with pytest.raises(UserError, match=taken(tmp_path / "sweep", first)):
            sweep(plan, QUIET)
        assert (tmp_path / "sweep" / "journal.log").read_bytes() == journal
        trial = next((tmp_path / "sweep" / "trials").glob("*"))
        with pytest.raises(UserError, match=taken(trial, first)):
            resume(trial, console=QUIET)
        kill(first)
    shutil.rmtree(tmp_path / "sweep" / "trials")
    (tmp_path / "sweep" / "settings.json").unlink()
    (tmp_path / "sweep" / "journal.log").unlink()
    assert sweep(a_sweep(shapes, tmp_path, "train.epochs=1"), QUIET).best.metrics["epochs"] == 1


def test_the_last_training_of_a_shared_sweep_is_done_once(shapes: Path, tmp_path: Path):
    """Machines with one database in common reach it together: one trains, the others wait for its result."""
    plan = a_sweep(shapes, tmp_path, "train.epochs=1", storage=f"sqlite:///{tmp_path}/trials.sqlite")
    found = sweep(plan, QUIET)
    shutil.rmtree(tmp_path / "sweep" / "best")
    folders: list[Path] = []
    with other_process(lambda: sweep(plan, QUIET)) as first:
        wait_for(lambda: (tmp_path / "sweep" / "best" / "config.yaml").is_file())
        folders.append(sweep(plan, QUIET).best.folder)
        first.join()
        assert first.exitcode == 0
    assert folders == [found.best.folder]


def test_a_protocol_is_of_one_process(shapes: Path, tmp_path: Path):
    config = settings(shapes, tmp_path, *LONG, "name=few")
    with other_process(lambda: few_shot(config, [1], [1], QUIET)) as first:
        wait_for(lambda: (tmp_path / "few" / "settings.json").is_file())
        with pytest.raises(UserError, match=taken(tmp_path / "few", first)):
            few_shot(config, [1], [1], QUIET)


def test_a_task_of_a_benchmark_is_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process may run other tasks in the same folder at the same time."""
    monkeypatch.setattr(running, "_usable", lambda bench, console: list(bench.tasks))
    ran: list[str] = []
    suite = SUITES["vtab"]
    config = running.settings_of(suite, words=["prompt=shallow", f"out={tmp_path}", "name=bench"])

    def a_bench(*tasks: str) -> Bench:
        return Bench(suite, tmp_path, config, suite.pick(list(tasks)), (0,))

    def forever(*_: object) -> None:
        signal.pause()

    def first_one() -> None:
        running._task = forever  # type: ignore[assignment]
        running.run(a_bench("dtd", "svhn"), QUIET)

    with other_process(first_one) as first:
        wait_for(lambda: (tmp_path / "bench" / "bench.json").is_file())
        monkeypatch.setattr(running, "_task", lambda bench, task, *_: ran.append(task.name))
        with pytest.raises(UserError, match=taken(tmp_path / "bench" / "svhn", first)):
            running.run(a_bench("svhn", "cifar"), QUIET)
        assert ran == []
        running.run(a_bench("cifar"), QUIET)
    running.run(a_bench("svhn", "dtd"), QUIET)
    assert sorted(ran) == ["cifar", "dtd", "svhn"]


def test_a_folder_that_is_removed_while_it_is_trained_in_ends_the_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is written into a folder of the same name that somebody else made since."""
    from vpt.training.trainer import Trainer

    config, other = (settings(shapes, tmp_path, "data.workers=0", f"train.epochs={epochs}") for epochs in (3, 1))
    usual, steps = Trainer.train_step, []

    def step(*more: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            shutil.rmtree(tmp_path / "run")
            train(other, QUIET)
        return usual(*more)

    monkeypatch.setattr(Trainer, "train_step", step)
    with pytest.raises(UserError, match="was removed or moved while it was in use"):
        train(config, QUIET)
    assert resume(tmp_path / "run", console=QUIET).metrics["epochs"] == 1


def test_a_moved_folder_goes_on_from_its_new_place(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from vpt.training.trainer import Trainer

    usual, steps = Trainer.train_step, []

    def step(*more: Any) -> Any:
        steps.append(1)
        if len(steps) == 7:
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        return usual(*more)

    monkeypatch.setattr(Trainer, "train_step", step)
    with pytest.raises(UserError, match="continue from its new location"):
        train(settings(shapes, tmp_path, "data.workers=0"), QUIET)
    assert not (tmp_path / "run").exists()
    assert resume(tmp_path / "elsewhere", console=QUIET).metrics["epochs"] == 3


class TestHold:
    """The lock by itself."""

    def test_a_folder_made_for_a_lock_alone_is_gone_after_it(self, tmp_path: Path):
        with lock_folder(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
        assert not list(tmp_path.iterdir())
        (tmp_path / "mine").mkdir()
        with lock_folder(tmp_path / "mine"):
            pass
        assert (tmp_path / "mine").is_dir()

    @pytest.mark.skipif(filelock.__version__.startswith("3."), reason="there, children keep the lock of their parent")
    def test_a_process_that_forks_gives_nothing_away(self, tmp_path: Path):
        """A child that lives on, as one that loads images may, holds nothing."""

        def parent() -> None:
            with lock_folder(tmp_path):
                if os.fork() == 0:
                    signal.alarm(60)
                    signal.pause()
                (tmp_path / "ready").write_text("")
                signal.pause()

        with other_process(parent) as first:
            wait_for(lambda: (tmp_path / "ready").is_file())
            kill(first)
            with lock_folder(tmp_path):
                pass

    @pytest.mark.parametrize("holder", ["", "{", "[]", '{"process": "x"}', '{"process": 1}', "\0\xff"])
    def test_a_holder_who_left_no_name(self, tmp_path: Path, holder: str):
        with lock_folder(tmp_path):
            (tmp_path / f"{LOCK}{HOLDER}").write_text(holder)
            with pytest.raises(UserError, match="in use by another process"), lock_folder(tmp_path):
                pass

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_gets_a_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
    ):
        def none(self: object, *_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(filelock.FileLock, "acquire", none)
        with lock_folder(tmp_path) as locked:
            locked.check()
        assert "file system without locks" in capsys.readouterr().err

    def test_another_rank_of_the_same_run_takes_no_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with lock_folder(tmp_path):
            monkeypatch.setattr(folder_lock, "is_first", lambda: False)
            with lock_folder(tmp_path) as locked:
                locked.check()

    def test_a_folder_that_may_not_be_written_is_an_error(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write"), lock_folder(tmp_path / "file"):
            pass
