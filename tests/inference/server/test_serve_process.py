"""`vpt serve` as processes: the command line, killed workers, Ray Serve with two replicas."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.serving import ask, png, ready
from vpt.cli.main import main
from vpt.inference.server.api_keys import read_keys


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestCommand:
    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ([], "name the folder"),
            (["nowhere"], "no such folder: nowhere"),
            (["{folder}", "--max-batch", "0"], "--max-batch 0"),
            (["{folder}", "--queue", "-5"], "--queue -5"),
            (["{folder}", "--workers", "0"], "--workers 0 must be at least 1"),
            (
                ["{folder}", "--keys", "nokeys.json"],
                "there is no file nokeys.json; create one with: vpt serve --new-key",
            ),
            (["{folder}", "--new-key", "a*"], "name the file of keys"),
            (["{folder}", "--device", "cuda:99"], "cuda:99"),
            (["{folder}", "--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
        ],
    )
    def test_mistakes_are_one_sentence(self, folder: Path, capsys, words: list[str], sentence: str):
        assert main(["serve", *(word.format(folder=folder) for word in words)]) == 2
        found = capsys.readouterr().err
        assert sentence in found
        assert found.count("\n") == 1

    def test_a_port_in_use(self, folder: Path, capsys):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert main(["serve", str(folder), "--port", str(port)]) == 2
        assert "choose another --port" in capsys.readouterr().err

    def test_a_new_key_is_printed_once_and_only_its_digest_kept(self, tmp_path: Path, capsys):
        file = tmp_path / "keys.json"
        assert main(["serve", "--keys", str(file), "--new-key", "flowers-*"]) == 0
        key = capsys.readouterr().out.strip()
        assert key not in file.read_text()
        assert read_keys(file).allowed(key, ["flowers-1"])
        assert not read_keys(file).allowed(key, ["birds"])


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`vpt serve` with two workers."""
    port = free_port()
    command = [sys.executable, "-m", "vpt", "serve", str(folder), "--port", str(port), "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--device", "cpu"], text=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    )
    yield process, port
    process.terminate()
    process.wait(timeout=60)


def children(process: int) -> set[int]:
    """Processes that a process started and that compute: their command line names spawn's main."""
    found = set()
    for number in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.add(int(number))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_killed_worker_is_replaced_and_the_service_goes_on(served: tuple[subprocess.Popen[str], int]):
    process, port = served

    def works() -> bool:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as web:
                ready(web)
                return ask(web, [png()], ["deep"]).status_code == 200
        except (httpx.TransportError, AssertionError):
            return False

    def until(check) -> None:
        deadline = time.monotonic() + 90
        while not check():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)

    until(works)
    until(lambda: len(children(process.pid)) == 2)
    before = children(process.pid)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(children(process.pid)) == 2 and children(process.pid) != before)
    until(works)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    until(works)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_ray_serve_with_two_replicas(folder: Path):
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve")
    from vpt.inference.server.ray_serve import application

    port = free_port()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application({"folder": str(folder), "device": "cpu", "replicas": "2", "cpus": "0.5"}))
        replicas = serve.status().applications["default"].deployments
        (deployment,) = replicas.values()
        assert deployment.replica_states == {"RUNNING": 2}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
            ready(web)
            for number in range(20):
                task = ("deep", "shallow")[number % 2]
                for _ in range(60):  # the other replica may still load
                    answer = ask(web, [png(number)], [task])
                    if answer.status_code != 503:
                        break
                    time.sleep(0.5)
                (row,) = answer.json()["results"]
                assert row["task"] == task
                assert all(re.match(rf"{task} \d", label) for label in row["scores"])
            assert ask(web, [png()], ["../deep"]).status_code == 404
    finally:
        serve.shutdown()
        ray.shutdown()
