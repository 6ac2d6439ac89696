"""The session on a GPU, tried without one: it resumes, no measurement costs another, and each runs on tiny models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu_session
from benchmarks.gpu_measurements import MEASUREMENTS, summary
from benchmarks.gpu_run import Run
from benchmarks.speed import gpu_tables, vtab_run
from tests.helpers.paths import ROOT

FAKES = ["--table", "tests.helpers.gpu_measurements", "--device", "cpu", "--tiny"]


def session(out: Path, *words: str) -> dict[str, Any]:
    """What the session's file holds after a call."""
    assert gpu_session.main([*FAKES, "--out", str(out), *words]) == 0
    found: dict[str, Any] = json.loads((out / "session.json").read_text())
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended; init may take a moment to collect it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_second_call_measures_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = session(tmp_path, "--only", "raises", "good")
    entry = first["results"]["good"]
    assert entry["result"] == {"calls": 1}
    assert first["gpu"] == "CPU"
    assert first["torch"].split("+")[0].count(".") == 2
    assert len(entry["commit"]) >= 7
    assert entry["date"].startswith("20")
    assert "ValueError: the kernel is broken" in first["failures"]["raises"]["reason"]
    said = capsys.readouterr().out
    assert "1 of 2 measured" in said
    second = session(tmp_path, "--only", "raises", "good", "absent")
    assert second["results"]["good"] == entry  # read, not measured
    assert second["failures"]["absent"]["reason"] == "there is nothing of the kind"
    lines = capsys.readouterr().out.splitlines()
    started = [line.partition(":")[0] for line in lines if line.endswith("...")]
    assert started == ["absent", "raises"]  # what failed before comes last
    assert session(tmp_path, "--only", "good", "--again")["results"]["good"]["result"] == {"calls": 2}


def test_a_hang_is_stopped_with_all_that_it_started(tmp_path: Path):
    found = session(tmp_path, "--only", "hangs", "--minutes", str((gpu_session.RESERVE + 4) / 60))
    assert "stopped after" in found["failures"]["hangs"]["reason"]
    assert json.loads((tmp_path / "hangs.part.json").read_text()) == {"cases": 1}  # it can go on from there
    assert gone(int((tmp_path / "child.txt").read_text()))


def test_what_does_not_fit_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert gpu_session.main([*FAKES, "--out", str(tmp_path), "--minutes", "0.2", "--only", "slow"]) == 0
    assert "slow: skipped, it takes 20 s and" in capsys.readouterr().out
    assert not (tmp_path / "session.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_keeps_its_results(tmp_path: Path, number: int):
    command = [sys.executable, "benchmarks/gpu_session.py", *FAKES, "--out", str(tmp_path), "--only", "good", "slow"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (tmp_path / "mark.txt").exists():
            break
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) != 0
    found = json.loads((tmp_path / "session.json").read_text())
    assert list(found["results"]) == ["good"]
    found = session(tmp_path, "--only", "good", "slow")
    assert {name: entry["result"] for name, entry in found["results"].items()} == {
        "good": {"calls": 1},
        "slow": {"done": True},
    }


def test_results_of_two_gpus_are_not_mixed(tmp_path: Path):
    found = session(tmp_path, "--only", "good")
    (tmp_path / "session.json").write_text(json.dumps({**found, "gpu": "NVIDIA B7"}))
    with pytest.raises(SystemExit, match=r"NVIDIA B7.*give another --out"):
        session(tmp_path, "--only", "good")


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu_session.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="no measurement vtabb; known: cuda-tests, vtab"):
        gpu_session.main(["--only", "vtabb"])


def test_tests_are_counted_by_outcome(tmp_path: Path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'no good'\n"
        "@pytest.mark.skip\ndef test_left(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError('no disk')\n"
        "def test_setup(broken): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "-p", "no:cacheprovider", "test_some.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    found = summary(tmp_path / "report.xml")
    failures = found.pop("failures")
    assert found == {"passed": 1, "failed": 2, "skipped": 1}
    assert "no good" in failures["test_bad"]
    assert "no disk" in failures["test_setup"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:.*all_gather_into_tensor:FutureWarning")
@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_every_measurement_runs_on_tiny_models(one: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vtab_run, "subprocess", SimpleNamespace(run=in_process))
    part = tmp_path / "part.json"
    found = one.run(Run(part, "cpu", tiny=True, seconds=200))
    found = json.loads(part.read_text()) if found is None else found
    reason = found.get("not_measured")
    assert reason is None or (one.name, reason) == ("segmentation", "vpt has no task segmentation")
    failed = [line for line in json.dumps(found, indent=1).splitlines() if '"error"' in line]
    assert not failed
    shown = {
        "cuda-tests": lambda: found["failed"] == 0 and found["passed"] + found["skipped"] > 50,
        "vtab-outside": lambda: found["profile"]["functions"]["vpt.training.run.train"] > 0,
        "released": lambda: "released form" in found["cases"][0]["series"][0]["training"],
        "sharded": lambda: "sharded" in found["cases"][0]["series"][0]["training"],
        "partial-depth": lambda: "last quarter, cached" in found["cases"][0]["series"][0]["training"],
        "bank": lambda: all(each["largest_difference"] < 1e-3 for each in found.values()),
        "serve": lambda: found["answers"]["right"] > 0 == found["answers"]["wrong"],
        "accuracy": lambda: found["runs"] > 0,
    }.get(one.name)
    assert shown is None or shown()


def test_goals_show_what_is_measured_and_say_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    case = {"model": gpu_tables.BASE, "tokens": 50, "batch": 128, "precision": "bf16", "mode": "compiled"}
    vpt = {"seconds": 0.5, "rounds": [0.5], "operations": 10}
    series = {"training": {"vpt": vpt}, "inference": {"vpt": vpt, "plain backbone": {"error": "OutOfMemoryError"}}}
    results = {
        "vtab": {"seconds_end_to_end": 31.2, "seconds_training": 27.0},
        "steps-compiled": {"matmul_per_second": {"bf16": 40.0}, "cases": [{**case, "series": [series]}]},
        "steps-base": {"cases": [{**case, "tokens": 200, "batch": 64, "mode": "graphs", "series": [series]}]},
    }
    entry = {"date": "2027-01-02T03:04:05+00:00", "commit": "abc", "seconds": 61.0}
    told = {"gpu": "NVIDIA B7", "torch": "2.15.0", "results": {k: {**entry, "result": v} for k, v in results.items()}}
    told["failures"] = {"bank": {**entry, "reason": "stopped after 90 s"}}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "session.json").write_text(json.dumps(told))
    monkeypatch.setattr(gpu_tables, "RESULTS", tmp_path)
    now = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in gpu_tables.goals().splitlines()
    }
    assert now["run of the size of a VTAB-1k task, end to end"] == "31 s"
    assert now["of it outside training"] == "4 s"
    assert now["training step, ViT-B/16, fraction of the matmul rate"] == "50%"
    assert now["training step, ViT-L/16, fraction of the matmul rate"] == "not measured"
    assert now["inference, 200 tokens, relative to the plain backbone"] == "not measured"  # the other one failed
    assert "Now: NVIDIA B7, torch 2.15.0." in gpu_tables.goals()
    table = gpu_tables.measurements()
    assert "2027-01-02, commit abc, 61 s" in table
    assert "not measured (stopped after 90 s)" in table
    assert gpu_tables.outside() == "On a GPU: not measured."


def in_process(command: list[str], **_: Any) -> None:
    """`python -m vpt` and `python -m benchmarks.speed.sampled` without the seconds that a new process takes."""
    from benchmarks.speed import sampled
    from vpt.cli.main import main

    words = command[command.index("-m") + 1 :]
    assert (main if words[0] == "vpt" else sampled.main)(words[1:]) == 0


def test_a_command_ends_without_a_last_search_for_cycles():
    code = (
        "import atexit, gc\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\n"  # the last to be called
        "from vpt.cli.main import main\n"
        "main(['--version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.stdout.splitlines()[-1:] == ["frozen True"], done.stderr
