"""What a server keeps of requests that are over: no frames of theirs, and no memory that is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.helpers.serving import png

# isort: split
from benchmarks.robustness.uploads import plain
from vpt.data.decode import BadImage
from vpt.inference.bank.answers import BrokenTaskError
from vpt.inference.bank.entry import ReadOptions
from vpt.inference.server import memory
from vpt.inference.server.decode_uploads import Decoder
from vpt.inference.server.dynamic_batching import Batcher, Work
from vpt.inference.server.memory import FreedMemory
from vpt.inference.server.multipart import Upload


def broken(works: Sequence[Any], seconds: float) -> list[BrokenTaskError]:
    try:
        raise ValueError("with a frame that holds the images of the pass")
    except ValueError as cause:
        error = BrokenTaskError("task a failed")
        error.__cause__ = cause
    try:
        raise error
    except BrokenTaskError as caught:
        return [caught for _ in works]


def test_the_error_of_a_task_that_rests_keeps_no_frames():
    async def scenario() -> list[Any]:
        batcher = Batcher(broken, 8, 0, 8)
        batcher.start()
        try:
            return [(await batcher.submit([Work("a", 0, None)], 30))[0] for _ in range(2)]
        finally:
            await batcher.close()

    first, again = asyncio.run(scenario())
    assert str(again) == "task a failed"
    assert again is first  # the one that is kept
    assert again.__traceback__ is None
    assert again.__cause__ is None
    assert again.__context__ is None


@pytest.mark.parametrize(
    "content", [b"no image", png()[:200], plain(1100, 1100, "PNG")[:-30]], ids=["text", "cut", "large"]
)
def test_the_error_of_an_image_keeps_no_frames(content: bytes):
    decoder = Decoder(1, 10**9, 8, 10**7, 10**7, ("PNG",))
    (found,) = asyncio.run(decoder.run([Upload("a", content)], {ReadOptions("full"): lambda pixels, name: name}))
    assert isinstance(found, BadImage)
    assert found.__traceback__ is None
    assert found.__cause__ is None


class TestFreedMemory:
    def test_it_is_given_back_after_a_large_image(self, monkeypatch: pytest.MonkeyPatch):
        threads: list[str] = []
        monkeypatch.setattr(FreedMemory, "give_back", lambda self: threads.append(threading.current_thread().name))

        async def scenario(size: tuple[int, int]) -> None:
            decoder = Decoder(1, 10**9, 8, 10**7, 10**7, ("PNG",))
            upload = Upload("a", plain(*size, "PNG"))
            await decoder.run([upload], {ReadOptions("full"): lambda pixels, name: np.zeros(1)})

        asyncio.run(scenario((900, 900)))
        assert threads == []
        asyncio.run(scenario((1100, 1100)))
        assert [name[:16] for name in threads] == ["vpt-decode-large"]

    def test_not_more_often_than_it_is_worth(self, monkeypatch: pytest.MonkeyPatch):
        now, done = [100.0], []
        monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(memory, "_trim", lambda: done.append)
        freed = FreedMemory()
        for _ in range(5):
            freed.give_back()
        now[0] += memory.PAUSE_S
        freed.give_back()
        assert done == [0, 0]

    def test_a_system_without_it(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
        FreedMemory().give_back()
