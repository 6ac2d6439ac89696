"""A disk that is full while something is written: one sentence, the last good state stays, and work goes on later."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.helpers.machines import in_child, small_disk
from tests.helpers.runs import NET, QUIET, settings
from vpt.cli.main import main
from vpt.config import load_config
from vpt.data.detection.convert import convert
from vpt.data.detection.registry import load_boxes
from vpt.experiments.sweep.search_space import read_space
from vpt.experiments.sweep.study import Sweep, sweep
from vpt.models.artifact import read_artifact
from vpt.training.run import resume, train
from vpt.utils.atomic_io import system_reason, write_atomic, write_text, writing
from vpt.utils.errors import UserError, WriteError
from vpt.utils.run_log import RunLog, read_rows
from vpt.utils.tensor_io import write_tensors

FULL = "No space left on device; free some space"
OFTEN = "train.checkpoint_minutes=0"


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The artifact of a run that nothing disturbed."""
    return train(settings(shapes, tmp_path_factory.mktemp("whole"), OFTEN), QUIET).artifact.read_bytes()


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


# What is written when the disk is full: the folder, settings, rows of the log, a checkpoint, pictures, metrics.
@pytest.mark.parametrize("kilobytes", [4, 12, 20, 40, 64, 120, 140])
def test_a_training_stops_with_one_sentence_and_goes_on(shapes: Path, tmp_path: Path, whole: bytes, kilobytes: int):
    with small_disk(tmp_path / "disk", kilobytes) as resize:
        with pytest.raises(WriteError, match=FULL):
            train(settings(shapes, tmp_path / "disk", OFTEN), QUIET)
        assert not leftovers(tmp_path / "disk")
        resize(4000)
        folder = tmp_path / "disk" / "run"
        begun = (folder / "config.yaml").is_file()
        result = resume(folder, console=QUIET) if begun else train(settings(shapes, folder.parent, OFTEN), QUIET)
        assert result.artifact.read_bytes() == whole
        steps = [row["step"] for row in read_rows(folder) if row["kind"] == "step"]
        assert steps == list(range(1, len(steps) + 1))


def test_the_command_line_says_how_the_run_goes_on(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with small_disk(tmp_path / "disk", 64):
        words = [f"data={shapes}", f"out={tmp_path / 'disk'}", "name=run", *NET, "train.epochs=3", OFTEN]
        assert main(["train", *words, "prompt.tokens=4", "data.workers=0"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vpt: ")]
    assert len(said) == 1
    assert said[0].endswith(f"then resume with: vpt train resume={tmp_path / 'disk' / 'run'}")


@pytest.mark.parametrize("kilobytes", [60, 300])
def test_a_sweep_stops_and_goes_on_with_the_same_trial(shapes: Path, tmp_path: Path, kilobytes: int):
    words = [f"data={shapes}", f"out={tmp_path / 'disk'}", "name=sweep", *NET, "data.workers=0", "train.epochs=1"]
    plan = Sweep([*words, "prompt.tokens=2"], read_space(["prompt.tokens=1,2"]), trials=2, grid=True)
    with small_disk(tmp_path / "disk", kilobytes) as resize:
        with pytest.raises(WriteError, match=f"{FULL}.*the same command continues the sweep"):
            sweep(plan, QUIET)
        resize(8000)
        found = sweep(plan, QUIET)
    assert sorted(row["params"]["prompt.tokens"] for row in found.trials if row["state"] == "complete") == [1, 2]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_export_ends_in_a_sentence_and_not_in_an_abort(shapes: Path, tmp_path: Path, format: str):
    run = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET).folder
    target = tmp_path / "disk" / "model"
    with small_disk(target.parent, 40):
        code, said = in_child(lambda: main(["export", str(run), "--format", format, "--output", str(target)]))
        assert not list(target.parent.iterdir())
    assert code == 2
    assert f"vpt: cannot write {target}: {FULL}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("kilobytes", [4, 40])
def test_predictions_and_pages_are_written_whole_or_not_at_all(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kilobytes: int
):
    run = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET).folder
    disk = tmp_path / "disk"
    with small_disk(disk, kilobytes):
        (disk / "ballast").write_bytes(bytes(1000 * kilobytes))
        for words in (
            ["report", str(run), "--no-model", "--output", str(disk / "page.html")],
            ["predict", str(run), str(shapes / "test"), "--format", "csv", "--output", str(disk / "found.csv")],
            ["predict", str(run), str(shapes / "test"), "--prompted", str(disk)],
        ):
            capsys.readouterr()
            assert main(words) == 2
            assert FULL in capsys.readouterr().err
            assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_boxes_are_converted_whole_or_not_at_all(tmp_path: Path):
    data = load_boxes(load_config(overrides=["task=detection", "data=scenes", "data.shots=1"]).data)
    with small_disk(tmp_path / "disk", 400) as resize:
        with pytest.raises(WriteError, match=f"cannot write {tmp_path / 'disk' / 'new'}.*{FULL}"):
            convert(data, tmp_path / "disk" / "new", "coco")
        assert not list((tmp_path / "disk").iterdir())
        resize(40_000)
        assert convert(data, tmp_path / "disk" / "new", "coco").is_dir()


def test_the_cache_of_digits_says_where_else_it_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", 400), pytest.raises(UserError, match=r"digits to .*No space.*XDG_CACHE_HOME"):
        load_config_and_read("data=digits")


def load_config_and_read(word: str) -> None:
    from vpt.data.datasets.registry import load_data

    load_data(load_config(overrides=[word]).data)


class TestLog:
    """Rows, lines and TensorBoard's events."""

    def test_a_full_disk_is_a_sentence_and_leaves_whole_rows(self, tmp_path: Path):
        with small_disk(tmp_path / "disk", 40) as resize:
            with pytest.raises(WriteError, match=FULL), RunLog(tmp_path / "disk" / "run") as log:
                for step in range(1, 10_000):
                    log.row("step", step=step, loss=1.0)
            rows = read_rows(tmp_path / "disk" / "run")
            assert len(rows) > 10
            resize(400)
            with RunLog(tmp_path / "disk" / "run", resume_step=rows[-1]["step"] - 1) as log:
                log.row("step", step=rows[-1]["step"], loss=2.0)
            assert [row["step"] for row in read_rows(tmp_path / "disk" / "run")] == [row["step"] for row in rows]

    def test_tensorboard_reads_a_resumed_log(self, tmp_path: Path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        with RunLog(tmp_path) as log:
            for step in range(1, 6):
                log.row("step", step=step, loss=1.0, lr={"head": 0.5})
        with RunLog(tmp_path, resume_step=3) as log:
            log.row("step", step=4, loss=2.0)
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [(each.step, each.value) for each in events.Scalars("step/loss")] == [(1, 1), (2, 1), (3, 1), (4, 2)]
        assert [each.value for each in events.Scalars("step/lr_head")] == [0.5] * 3

    def test_no_thread_is_left_to_fail_by_itself(self, tmp_path: Path):
        import threading

        before = threading.active_count()
        with RunLog(tmp_path) as log:
            log.row("step", step=1, loss=1.0)
            assert threading.active_count() == before


def limited(bytes_: int, work: Callable[[], object]) -> tuple[int, str]:
    """`work` where no file may be larger than so many bytes."""

    def child() -> int:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
        try:
            work()
        except WriteError as error:
            os.write(2, str(error).encode())
            return 2
        return 0

    return in_child(child)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_tensors(path, {"a": torch.zeros(100_000)}, {}),  # safetensors' own error
        lambda path: write_text(path, "x" * 100_000),
        lambda path: write_atomic(path, lambda temporary: torch.save({"a": torch.zeros(100_000)}, temporary)),
    ],
)
def test_a_file_that_may_not_grow_is_a_sentence_whoever_writes(tmp_path: Path, write: Callable[[Path], object]):
    path = tmp_path / "file"
    path.write_text("before")
    code, said = limited(10_000, lambda: write(path))
    assert (code, said) == (
        2,
        f"cannot write {path}: {os.strerror(errno.EFBIG)}; free some space or choose another folder",
    )
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_mistake_of_ours_is_not_taken_for_a_full_disk(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "a", lambda temporary: 1 / 0)
    with pytest.raises(SafetensorError), writing(tmp_path / "a"):
        raise SafetensorError("invalid header")
    assert system_reason(KeyError("a")) is None


def test_the_reason_behind_an_error_is_found():
    def written() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from error

    with pytest.raises(RuntimeError) as caught:
        written()
    assert system_reason(caught.value) == os.strerror(errno.ENOSPC)


def test_a_run_that_was_kept_from_finishing_keeps_its_old_artifact(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    before = result.artifact.read_bytes()
    with small_disk(tmp_path / "disk", 2000):
        for file in result.folder.iterdir():
            if file.is_file():
                (tmp_path / "disk" / file.name).write_bytes(file.read_bytes())
        (tmp_path / "disk" / "config.yaml").write_text((result.folder / "config.yaml").read_text())
        with (tmp_path / "disk" / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="space"):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(UserError, match="No space left"):
            resume(tmp_path / "disk", ["train.device=cpu"], QUIET)
        assert (tmp_path / "disk" / "artifact.safetensors").read_bytes() == before
        assert read_artifact(tmp_path / "disk").classes
