"""Good requests to a server: as many as it answers, or at a rate of their own whether it answers or not."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.robustness import requests as hostile
from benchmarks.robustness.wire import status

TIMEOUT_S = 60.0
REFUSED = (429, 503)


@dataclass(frozen=True)
class Good:
    """A good request and what tells whether its answer is right."""

    content: bytes
    right: Callable[[bytes], bool]


@dataclass(frozen=True)
class Answer:
    """What came back: status, 0 for none; body; seconds from when it was to be sent; when, by the monotonic clock."""

    request: Good
    status: int
    body: bytes
    seconds: float
    came: float


def request(task: str, photo: bytes) -> bytes:
    """A request for a prediction, after which the connection ends."""
    fields = [hostile.field(b"tasks", task.encode()), hostile.field(b"top", b"1000")]
    return hostile.post(hostile.form(hostile.image(photo, b"a.jpg"), *fields), b"Connection: close")


async def send(port: int, good: Good, due: float) -> Answer:
    """Send a request on a connection of its own and wait for the answer."""
    content = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(good.content)
                content = await reader.read(-1)
            finally:
                writer.close()
    now = time.monotonic()
    return Answer(good, status(content), content.partition(b"\r\n\r\n")[2], now - due, now)


async def closed(port: int, goods: Sequence[Good], clients: int, seconds: float) -> dict[str, Any]:
    """Clients that send the next request when the last one is answered; the server's capacity."""
    begun = time.monotonic()
    answers: list[Answer] = []

    async def client(seed: int) -> None:
        chance = np.random.default_rng(seed)
        while time.monotonic() < begun + seconds:
            found = await send(port, goods[chance.integers(len(goods))], time.monotonic())
            answers.append(found)
            if found.status != 200:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client(seed) for seed in range(clients)))
    return figures(answers, begun, seconds)


async def scheduled(port: int, goods: Sequence[Good], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at so many a second, however long answers take. Latency counts from when a request was to be sent."""
    begun = time.monotonic()
    chance = np.random.default_rng(0)
    sent = []
    for number in range(max(1, int(rate * seconds))):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        sent.append(asyncio.create_task(send(port, goods[chance.integers(len(goods))], due)))
    return figures(await asyncio.gather(*sent), begun, seconds)


def figures(answers: Sequence[Answer], begun: float, seconds: float) -> dict[str, Any]:
    """Rate and latency of the answers with a prediction, and what became of the other requests."""
    done = [each for each in answers if each.status == 200]
    counts = Counter(each.status for each in answers)
    times = [1000 * each.seconds for each in done]
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [0.0] * 99
    refused = sum(counts[each] for each in REFUSED)
    return {
        "sent": len(answers),
        "per_second": sum(each.came <= begun + seconds for each in done) / seconds,
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "refused": refused / max(1, len(answers)),
        "wrong": sum(not each.request.right(each.body) for each in done),
        "lost": counts[0],
        "statuses": {str(each): counts[each] for each in sorted(counts)},
    }
