"""Sends hostile bytes to a server: each once, or over and over until its standard input ends.

    python -m benchmarks.robustness.attack PORT FOLDER --threads 8

The second is a process of its own, so that who measures good requests is not held up by who sends bad ones. FOLDER is
one that `write` has filled. What came back is printed as JSON: how many answers of each status.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.robustness.wire import tried

SECRET = b"root:x:0"  # of /etc/passwd, which many attacks name


def once(port: int, attacks: Iterable[tuple[str, bytes]], threads: int = 16, seconds: float = 90) -> dict[str, Any]:
    """Send each once, several at a time.

    Returns:
        `by_kind`: how many answers of each status to each kind, and `told_secrets`: kinds whose answers held some.
        A status of 0 is a connection that ended without an answer, -1 one on which nothing came within `seconds`.
    """
    counts: dict[str, Counter[int]] = {}
    secrets: set[str] = set()
    lock = threading.Lock()
    free = threading.Semaphore(2 * threads)  # what is made and not sent yet

    def send(name: str, content: bytes) -> None:
        status, answer = tried(port, content, seconds)
        free.release()
        kind = "damaged bytes" if name.startswith("damaged ") else name
        with lock:
            counts.setdefault(kind, Counter())[status] += 1
            if SECRET in answer:
                secrets.add(kind)

    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for name, content in attacks:
            free.acquire()
            waiting.append(pool.submit(send, name, content))
        for each in waiting:
            each.result()
    by_kind = {kind: {str(status): number for status, number in sorted(counts[kind].items())} for kind in counts}
    return {"by_kind": by_kind, "told_secrets": sorted(secrets)}


def write(folder: Path, attacks: Iterable[tuple[str, bytes]]) -> Path:
    """Put attacks into files of a new folder, for `stream`."""
    folder.mkdir()
    for number, (_, content) in enumerate(attacks):
        (folder / f"{number:05}").write_bytes(content)
    return folder


def stream(port: int, files: Sequence[Path], threads: int, patience: float, end: threading.Event) -> dict[str, Any]:
    """Send files in a random order without pause, each thread one at a time, until `end` is set.

    Args:
        port: of the server.
        files: bytes of requests.
        threads: that send.
        patience: seconds until an attacker goes away and sends the next.
        end: set by somebody else.
    """
    counts: Counter[int] = Counter()
    lock, started = threading.Lock(), time.monotonic()

    def attacker(seed: int) -> None:
        chance = random.Random(seed)
        while not end.is_set():
            status, _ = tried(port, _content(chance.choice(files)), patience)
            with lock:
                counts[status] += 1

    team = [threading.Thread(target=attacker, args=(seed,)) for seed in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    statuses = {str(status): number for status, number in sorted(counts.items())}
    return {"seconds": time.monotonic() - started, "statuses": statuses}


def _content(path: Path) -> Any:
    """Bytes of a file, mapped: many are large, and are sent again and again."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--patience", type=float, default=2.0)
    options = parser.parse_args()
    end, found = threading.Event(), {}
    files = sorted(options.folder.iterdir())

    def run() -> None:
        found.update(stream(options.port, files, options.threads, options.patience, end))

    running = threading.Thread(target=run)
    running.start()
    sys.stdin.read()
    end.set()
    running.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
