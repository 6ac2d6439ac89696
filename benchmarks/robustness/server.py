"""A server attacked: what it answers, runs and takes, and how good requests fare before and meanwhile.

    python -m benchmarks.robustness.server                                          # half an hour
    python -m benchmarks.robustness.server --uploads 50 --requests 50 --seconds 2   # a few minutes

Starts `vpt serve` with its own settings on a folder of tasks, among them files that would run code if they were opened
in a careless way. First come hostile uploads and requests, each once; no answer may be a 5xx but 503 and 504, the
process must live, and a canary file that the attacks try to write must not be there. Then the capacity is measured with
clients that wait for their answers, and good requests are sent at parts of it by a schedule, by turns with nobody else
and with attackers of both kinds who send without pause. Results go to benchmarks/results/robustness-server.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.machine import machine
from benchmarks.robustness import payloads, traffic
from benchmarks.robustness.attack import once, write
from benchmarks.robustness.requests import KINDS, field, form, image, post, predict, requests
from benchmarks.robustness.uploads import LARGE, SMALL, uploads
from benchmarks.robustness.watching import Watch, wait_until_idle
from benchmarks.robustness.wire import status, talk
from benchmarks.speed.bank import make
from benchmarks.speed.server_load import answers_of, free_port, jpeg, same
from vpt.inference.server.settings import ServeSettings
from vpt.utils.atomic_io import write_json

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 16
SHARES = (0.5, 1.0, 2.0)  # of the capacity
BUSY = 1.5  # load of the machine from which on it is called shared
WAITING = 64  # requests at a time, for of many only half comes, and the server waits for the rest
BODY = 19_000_000  # bytes of a request of many images; a server takes 20 MB
DAMAGED_SHARE = 4  # of the streams: one damaged upload for so many of others


@dataclass(frozen=True)
class Served:
    """A server: its process and port, where it may write, and the canary."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    home: Path
    canary: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=1000, help="hostile images")
    parser.add_argument("--requests", type=int, default=1000, help="hostile requests")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--clients", type=int, default=32, help="that measure the capacity")
    parser.add_argument("--attackers", type=int, default=4, help="of each kind, at a time")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "robustness-server.json")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "tasks")
        artifacts = made(folder, options.tasks)
        photos = [jpeg(number) for number in range(PHOTOS)]
        expected = answers_of(artifacts, photos, "cpu")
        goods = [good(name, number, photos[number], scores) for (name, number), scores in expected.items()]
        with started(Path(place), folder) as server, Watch(server.process.pid, server.port) as watch:
            asyncio.run(traffic.closed(server.port, goods, options.clients, min(5.0, options.seconds)))
            before = watch.now()
            attacks = attacked(server, options.uploads, options.requests, options.seed)
            after, peak_of_attacks = watch.now(), watch.peak
            print(json.dumps(attacks["statuses"], indent=2), file=sys.stderr)
            loads = under_load(server, goods, options, Path(place))
            checked(server, goods)
    memory = {
        "before": before,
        "after_attacks": after,
        "peak_of_attacks": peak_of_attacks,
        "peak": watch.peak,
        "allowed": allowed_megabytes(),
    }
    result = {
        "machine": machine(torch.device("cpu")),
        "cores": os.cpu_count(),
        "cores_are_shared": "by the server, the clients and the attackers",
        "load_average_at_start": load_before,
        "shared_machine": load_before > BUSY,
        **{key: getattr(options, key) for key in ("seed", "tasks", "clients", "attackers", "seconds", "rounds")},
        "backbone": "vpt_nano",
        **attacks,
        "memory_megabytes": memory,
        "slowest_health_seconds": watch.slowest_health,
        "health_not_answered": watch.unhealthy,
        **loads,
    }
    result["faults"] = faults(result)
    write_json(options.output, result)
    print(json.dumps({key: result[key] for key in ("memory_megabytes", "capacity_per_second", "loads", "faults")}))
    if result["faults"]:
        raise SystemExit("; ".join(result["faults"]))


@contextlib.contextmanager
def started(place: Path, folder: Path, *words: str) -> Iterator[Served]:
    """A server on a folder of tasks, with what would write the canary added to it.

    Args:
        place: an empty folder, or one that holds only `folder`, for whatever the server writes.
        folder: of tasks.
        words: more options of `vpt serve`.
    """
    home, canary = place / "home", place / "canary"
    home.mkdir()
    payloads.served(folder, canary)
    port = free_port()
    command = [sys.executable, "-m", "vpt", "serve", str(folder), "--port", str(port), "--device", "cpu", *words]
    places = {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **places, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=home)
    try:
        _until_ready(process, port)
        yield Served(process, port, folder, home, canary)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(1200):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the server did not become ready within two minutes")


def made(folder: Path, tasks: int) -> dict[str, Path]:
    """A new folder of tasks on vpt_nano."""
    folder.mkdir()
    wanted = argparse.Namespace(backbone="vpt_nano", weights=None, random=False, lora=0, tasks=tasks, tokens=(5, 20))
    return make(wanted, folder)


def good(task: str, number: int, photo: bytes, scores: dict[str, float]) -> traffic.Good:
    """A photo to a task; its answer is right if it is that of the task's own model."""

    def right(body: bytes) -> bool:
        return same(httpx.Response(200, content=body), task, scores)

    return traffic.Good(traffic.request(task, photo), right)


def attacked(server: Served, images: int, others: int, seed: int, **sizes: int) -> dict[str, Any]:
    """Send so many hostile uploads and requests; what was answered, and what was written meanwhile.

    Args:
        server: that is attacked.
        images: number of hostile uploads.
        others: number of hostile requests.
        seed: of the damage and the order.
        sizes: `bulk` and `side`, as in `robustness.uploads`.
    """
    files = _files(server)
    found = {
        "uploads": once(server.port, _mixed(hostile_uploads(server.canary, images, seed, **sizes), seed)),
        "requests": once(server.port, _mixed(hostile_requests(server.canary, others, seed, **sizes), seed), WAITING),
    }
    statuses = {kind: _totals(each["by_kind"]) for kind, each in found.items()}
    return {
        "attacks": {kind: each["by_kind"] for kind, each in found.items()},
        "statuses": statuses,
        "sent": {kind: sum(each.values()) for kind, each in statuses.items()},
        "kinds": {kind: len(each["by_kind"]) for kind, each in found.items()},
        "told_secrets": sorted({name for each in found.values() for name in each["told_secrets"]}),
        "code_run": server.canary.exists(),
        "files_written": sorted(_files(server) ^ files),
        "alive": server.process.poll() is None,
    }


def hostile_uploads(canary: Path, count: int, seed: int, bulk: int = 18_000_000, side: int = 6300) -> Iterator[Any]:
    """Requests with hostile images: each kind to both addresses and as many as fit into one request, then damaged."""
    kinds = [*SMALL, *LARGE]
    made = uploads(bulk, side, seed)
    known = [*itertools.islice(made, len(kinds)), *payloads.uploads(canary)]
    tasks = field(b"tasks", b"task 1")

    def several() -> Iterator[tuple[str, bytes]]:
        for name, content in known:
            yield name, post(form(image(content), tasks))
        for name, content in known:
            fit = max(1, min(16, BODY // max(1, len(content))))
            yield f"{name}, {'up to 16 in a request'}", post(form(*[image(content)] * fit, tasks))
        for name, content in known:
            request = post(form(image(content), tasks)).replace(b"/v1/predict", b"/v1/attention", 1)
            yield f"{name}, for attention", request
        for name, content in made:
            yield name, post(form(image(content), tasks))

    yield from itertools.islice(several(), count)


def hostile_requests(canary: Path, count: int, seed: int, bulk: int = 18_000_000, side: int = 0) -> Iterator[Any]:
    """Every kind of request, those that would run code, then damaged ones."""
    made = requests("task 1", bulk, seed)
    known = [*itertools.islice(made, len(KINDS)), *payloads.requests("task 1", canary)]
    yield from itertools.islice(itertools.chain(known, made), count)


def _mixed(attacks: Iterator[tuple[str, bytes]], seed: int, size: int = 32) -> Iterator[tuple[str, bytes]]:
    """Attacks in another order, of which a few are held at a time."""
    chance, held = random.Random(seed), list(itertools.islice(attacks, size))
    for attack in attacks:
        at = chance.randrange(size)
        yield held[at]
        held[at] = attack
    yield from held


def _totals(by_kind: dict[str, dict[str, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for statuses in by_kind.values():
        totals.update(statuses)
    return dict(sorted(totals.items()))


def _files(server: Served) -> set[str]:
    """Files below what belongs to the server, caches that Python's libraries keep left out."""
    places = (server.folder, server.home)
    return {str(path) for place in places for path in place.rglob("*") if "cache" not in path.parts}


def under_load(
    server: Served, goods: Sequence[traffic.Good], options: argparse.Namespace, place: Path
) -> dict[str, Any]:
    """Capacity, and good requests at parts of it, by turns with and without attackers."""
    bytes_of = {
        "uploads": hostile_uploads(server.canary, DAMAGED_SHARE * 60, options.seed),
        "requests": hostile_requests(server.canary, 2 * len(KINDS), options.seed),
    }
    pools = [write(place / kind, attacks) for kind, attacks in bytes_of.items()]
    wait_until_idle(server.process.pid)
    runs: list[dict[str, Any]] = []
    streams: Counter[str] = Counter()
    for number, share in itertools.product(range(options.rounds), SHARES):
        # Anew for each pair, for others may use the machine meanwhile.
        measured = traffic.closed(server.port, goods, options.clients, max(2.0, options.seconds / 2))
        capacity = asyncio.run(measured)["per_second"]
        wait_until_idle(server.process.pid)
        for attack in (False, True) if number % 2 == 0 else (True, False):
            with attackers(server.port, pools if attack else [], options.attackers) as sent:
                time.sleep(min(3.0, options.seconds) if attack else 0)  # until the attack is under way
                found = asyncio.run(traffic.scheduled(server.port, goods, share * capacity, options.seconds))
            streams.update(sent)
            runs.append({"round": number, "share": share, "attacked": attack, "capacity": capacity, **found})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
            runs[-1]["attacks"] = dict(sent)
            wait_until_idle(server.process.pid)
    return {
        "capacity_per_second": statistics.median(run["capacity"] for run in runs),
        "loads": [
            {"share": share, "attacked": attack, **medians([r for r in runs if (r["share"], r["attacked"]) == key])}
            for share in SHARES
            for attack in (False, True)
            for key in [(share, attack)]
        ],
        "attacks_meanwhile": dict(sorted(streams.items())),
        "runs": runs,
    }


@contextlib.contextmanager
def attackers(port: int, pools: Sequence[Path], threads: int) -> Iterator[Counter[str]]:
    """Processes that attack, one for each folder of attacks; answers by status, filled in at the end."""
    command = [sys.executable, "-m", "benchmarks.robustness.attack", str(port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    team = [subprocess.Popen([*command, str(pool), "--threads", str(threads)], **pipes) for pool in pools]
    found: Counter[str] = Counter()
    try:
        yield found
    finally:
        for process in team:
            process.stdin.close()
        for process in team:
            found.update(json.loads(process.stdout.read())["statuses"])
            process.wait()


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs: medians of rates and latencies, sums of what must not be."""
    middle = ("capacity", "sent", "per_second", "p50_ms", "p99_ms", "refused")
    return {
        **{key: statistics.median(run[key] for run in runs) for key in middle},
        **{key: sum(run[key] for run in runs) for key in ("wrong", "lost")},
        "late": sum(run["statuses"].get("504", 0) for run in runs),
    }


def checked(server: Served, goods: Sequence[traffic.Good]) -> None:
    """SystemExit unless the server answers as it did before."""
    wait_until_idle(server.process.pid)
    for each in goods:
        answer = talk(server.port, each.content)
        if status(answer) != 200 or not each.right(answer.partition(b"\r\n\r\n")[2]):
            raise SystemExit(f"after the attacks a good request is answered with {answer[:300]!r}")
    if status(talk(server.port, predict(b"task 1"))) != 200:
        raise SystemExit("after the attacks a good PNG is not answered")


def allowed_megabytes() -> int:
    """What requests may take beside backbone and tasks, by the limits of a server (docs/security.md)."""
    limits = ServeSettings(folder=Path())
    squares = 3 * 96 * 96 * limits.queue / 1e6
    return round(limits.decode_mb + 20 * limits.decode_threads + limits.uploads_mb + squares)


def faults(result: dict[str, Any]) -> list[str]:
    """What must not be, in sentences."""
    found = []
    for where, statuses in {**result["statuses"], "streams": result.get("attacks_meanwhile", {})}.items():
        wrong = {key: n for key, n in statuses.items() if key.startswith("5") and key not in ("503", "504")}
        found += [f"{where}: {n} answers of status {key}" for key, n in wrong.items()]
    found += [f"{n} {kind} had no answer in time" for kind, s in result["statuses"].items() if (n := s.get("-1"))]
    for key, text in (("code_run", "code was run"), ("told_secrets", "a file was told"), ("files_written", "written")):
        found += [f"{text}: {result[key]}"] if result[key] else []
    found += [] if result["alive"] else ["the server died"]
    found += [f"{each['wrong']} wrong answers" for each in result.get("loads", []) if each["wrong"]]
    memory = result.get("memory_megabytes")
    if memory and memory["peak"] - memory["before"] > memory["allowed"]:
        found.append(f"{memory['peak']} MB were used, {memory['before']} before")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
