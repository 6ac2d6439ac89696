"""The attack suite in small: a real `vpt serve`, hostile uploads and requests over sockets, and what comes of them."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving import fill

# isort: split
from benchmarks.robustness import attack, payloads, server, traffic
from benchmarks.robustness import requests as hostile
from benchmarks.robustness.watching import Watch
from benchmarks.robustness.wire import talk
from vpt.inference.server import uvicorn_main as process
from vpt.inference.server.settings import ServeSettings

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Served]:
    place = tmp_path_factory.mktemp("server")
    (place / "tasks").mkdir()
    folder = fill(place / "tasks", tmp_path_factory.mktemp("made"))
    (folder / "deep.safetensors").rename(folder / "task 1.safetensors")  # the one that is attacked
    quick = ["--header-s", "1", "--upload-s", "1"]
    with server.started(place, folder, *quick) as found:
        yield found


class TestAttacked:
    def test_it_answers_runs_nothing_and_tells_nothing(self, served: server.Served):
        with Watch(served.process.pid, served.port) as watch:
            found = server.attacked(served, 120, 200, seed=0, bulk=200_000, side=600)
        assert server.faults(found) == []
        assert found["sent"] == {"uploads": 120, "requests": 200}
        assert found["kinds"]["requests"] > 90
        assert {"200", "422"} <= set(found["statuses"]["uploads"])
        assert {"200", "400", "413", "415"} <= set(found["statuses"]["requests"])
        assert found["attacks"]["uploads"]["code: a pickle"] == {"422": 1}
        assert found["attacks"]["requests"]["a megabyte in punycode"] == {"415": 1}
        assert watch.peak > 0
        assert watch.unhealthy == 0
        answer = talk(served.port, hostile.predict(b"task 1"))
        assert b'"task":"task 1"' in answer.replace(b'": "', b'":"')

    def test_good_requests_meanwhile(self, served: server.Served, tmp_path: Path):
        attacks = [("a", hostile.get(b"/" + b"a" * 15_000)), ("b", b"noise"), ("nothing", b"")]
        folder = attack.write(tmp_path / "attacks", attacks)
        files, end, sent = sorted(folder.iterdir()), threading.Event(), {}
        running = threading.Thread(target=lambda: sent.update(attack.stream(served.port, files, 2, 0.3, end)))
        running.start()
        photo = hostile.picture("JPEG")
        goods = [traffic.Good(traffic.request("task 1", photo), lambda body: b'"scores"' in body)]
        goods += [traffic.Good(traffic.request("deep-longer", photo), lambda body: False)]
        found = asyncio.run(traffic.scheduled(served.port, goods, rate=20, seconds=1))
        end.set()
        running.join()
        assert found["sent"] == 20
        assert found["statuses"] == {"200": 20}
        assert 0 < found["wrong"] < 20  # those to the second task
        assert 0 < found["p50_ms"] <= found["p99_ms"]
        assert sent["statuses"].get("404", 0) > 0
        assert sum(sent["statuses"].values()) > 3


def test_code_would_run_if_it_were_opened(tmp_path: Path):
    """Else a canary that is not there would show nothing."""
    canary = tmp_path / "canary"
    contents = dict(payloads.uploads(canary))
    assert not canary.exists()
    pickle.loads(contents["code: a pickle"])
    assert canary.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"statuses": {"uploads": {"200": 3, "500": 2, "503": 1}}}, "uploads: 2 answers of status 500"),
        ({"statuses": {"requests": {"-1": 4}}}, "4 requests had no answer in time"),
        ({"attacks_meanwhile": {"502": 1, "504": 9}}, "streams: 1 answers of status 502"),
        ({"code_run": True}, "code was run"),
        ({"alive": False}, "the server died"),
        ({"told_secrets": ["a name of a path"]}, "a name of a path"),
        ({"files_written": ["/x"]}, "/x"),
        ({"loads": [{"wrong": 3}]}, "3 wrong answers"),
        ({"memory_megabytes": {"peak": 900, "before": 100, "allowed": 700}}, "900 MB were used, 100 before"),
    ],
)
def test_faults_are_named(change: dict[str, object], sentence: str):
    good = {"statuses": {"uploads": {"200": 3}}, "code_run": False, "told_secrets": [], "files_written": []}
    assert server.faults({**good, "alive": True}) == []
    (found,) = server.faults({**good, "alive": True, **change})
    assert sentence in found


def test_a_connection_without_an_answer_is_counted(served: server.Served):
    half = ("half", b"GET /heal")
    found = attack.once(served.port, [half, half, ("damaged 1", hostile.get(b"/x"))])
    assert found["by_kind"] == {"half": {"0": 2}, "damaged bytes": {"404": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "SECRET", b"Not Found")
        assert attack.once(served.port, [("a", hostile.get(b"/x"))])["told_secrets"] == ["a"]
    assert attack.once(served.port, [half], seconds=0.2)["by_kind"] == {"half": {"-1": 1}}


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_of_a_server_take_turns_often(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A pass waits for the interpreter at each operation while the event loop is busy."""
    settings = ServeSettings(folder=tmp_path, device="cpu")
    monkeypatch.setenv(process.VARIABLE, "")  # put back afterwards
    seen = []

    def uvicorn_run(app: object, factory: bool = False, **_: object) -> None:
        if factory:  # what each process that uvicorn starts does
            process.app_of_environment()
        seen.append(sys.getswitchinterval())

    monkeypatch.setattr("uvicorn.run", uvicorn_run)
    before = sys.getswitchinterval()
    try:
        process.run(settings, "127.0.0.1", 0, workers)
    finally:
        sys.setswitchinterval(before)
    assert seen[0] <= 0.001
