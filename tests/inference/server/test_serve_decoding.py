"""Decoding on a server: budgets come before it, abandoned images are not begun, and small images pass by large ones."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.helpers.serving import ask, live, png, ready, until

# isort: split
from benchmarks.robustness import requests as hostile
from benchmarks.robustness.uploads import LARGE, SMALL, picture, plain, uploads
from vpt.data.decode import examine
from vpt.inference.bank.entry import ReadOptions
from vpt.inference.server import decode_uploads
from vpt.inference.server.app import create_app
from vpt.inference.server.decode_queue import Turns
from vpt.inference.server.decode_uploads import Decoder, TooManyPixelsError
from vpt.inference.server.fair_queue import ClosedError, FullError
from vpt.inference.server.multipart import FormReader, Upload
from vpt.inference.server.settings import ServeSettings


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    settings = ServeSettings(folder=folder, device="cpu", max_pixels=3_000_000, request_pixels=5_000_000)
    with TestClient(create_app(settings)) as made:
        ready(made)
        yield made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded."""
    names: list[str] = []
    monkeypatch.setattr(
        decode_uploads, "examine", lambda *words, **more: (names.append(words[2]), examine(*words, **more))[1]
    )
    return names


def small_decoder(**changes: Any) -> Decoder:
    words = {"threads": 1, "memory": 10**9, "limit": 8, "max_pixels": 10**7, "request_pixels": 10**7}
    return Decoder(**{**words, "formats": ("PNG",), **changes})


def test_pixels_of_a_request_are_counted_before_any_is_decoded(client: TestClient, decoded: list[str]):
    large = plain(1500, 1500, "WEBP")
    answer = ask(client, [large] * 3, ["deep"])
    assert answer.status_code == 413
    assert "the images of the request have 6750000 pixels; 5000000 are allowed in total" in answer.json()["detail"]
    assert not decoded
    assert ask(client, [large] * 2, ["deep"]).status_code == 200
    assert len(decoded) == 2


@pytest.mark.parametrize(
    "name",
    [
        "PNG that claims ten thousand megapixels",
        "WebP of 268 megapixels",
        "GIF of 4000 megapixels",
        "TIFF with a tile of a thousand megapixels",
        "BMP of one row in runs",
        "PNG with texts of four bytes a letter",
    ],
)
def test_what_its_header_gives_away_is_not_decoded(client: TestClient, decoded: list[str], name: str):
    answer = ask(client, [SMALL[name](6300)], ["deep"])
    assert answer.status_code == 422
    assert "0.png" in answer.json()["detail"]
    assert not decoded


def test_hostile_uploads(client: TestClient):
    for name, content in itertools.islice(uploads(bulk=100_000, side=1000), len(SMALL) + len(LARGE) + 30):
        answer = client.post("/v1/predict", files={"images": ("a", content)}, data={"tasks": "deep"})
        assert answer.status_code in (200, 422), (name, answer.text)


def test_formats(folder: Path, client: TestClient):
    answer = ask(client, [picture("TIFF")], ["deep"])
    assert answer.status_code == 422
    assert "it is not an image file of these formats: BMP, GIF, JPEG, NPY, PNG, WEBP" in answer.json()["detail"]
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        assert ask(client, [picture(kind)], ["deep"]).status_code == 200
    with TestClient(create_app(ServeSettings(folder=folder, device="cpu", formats=("tiff",)))) as other:
        ready(other)
        assert ask(other, [picture("TIFF")], ["deep"]).status_code == 200
        assert ask(other, [png()], ["deep"]).status_code == 422


def test_a_large_photo_is_not_held_while_it_waits_for_its_answer(client: TestClient):
    """What waits in the queue is as large as a task wants it, whatever was sent, and made once for tasks that want the
    same."""
    batcher = client.app.state.service.batcher
    usual, seen = batcher._run, []
    batcher._run = lambda works, seconds: (seen.extend(works), usual(works, seconds))[1]
    try:
        assert ask(client, [png(size=(900, 900))], ["deep", "deep-longer"]).status_code == 200
    finally:
        batcher._run = usual
    assert [tuple(work.image.pixels.shape) for work in seen] == [(3, 64, 64)] * 2
    assert seen[0].image.pixels.data_ptr() == seen[1].image.pixels.data_ptr()


def test_files_are_not_held_while_their_answers_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    forms = []
    usual_finish = FormReader.finish
    monkeypatch.setattr(FormReader, "finish", lambda self: (forms.append(usual_finish(self)), forms[-1])[1])
    app = create_app(ServeSettings(folder=folder, device="cpu"))
    batcher = app.state.service.batcher
    usual, held = batcher._run, []

    def run(*words: Any) -> Any:
        held.append((app.state.service.uploads.held, len(forms[0].images)))
        return usual(*words)

    batcher._run = run
    with TestClient(app) as client:
        ready(client)
        assert ask(client, [png()] * 2, ["deep"]).status_code == 200
    assert set(held) == {(0, 0)}


class TestGivenUp:
    def test_images_that_have_not_begun_are_not_decoded(self, decoded: list[str]):
        async def scenario() -> int:
            decoder = small_decoder()
            begun, gate = threading.Event(), threading.Event()

            def finish(pixels: np.ndarray, name: str) -> str:
                begun.set()
                gate.wait(60)
                return name

            images = [Upload(f"{number}", plain(1100, 1000, "PNG")) for number in range(4)]
            request = asyncio.create_task(decoder.run(images, {ReadOptions("full"): finish}))
            await asyncio.to_thread(begun.wait, 60)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            gate.set()
            await decoder.run([Upload("other", plain(1100, 1000, "PNG"))], {ReadOptions("full"): finish})
            return decoder.waiting

        assert asyncio.run(scenario()) == 0
        assert decoded == ["0", "other"]

    def test_who_goes_away_is_not_answered(self, folder: Path, decoded: list[str]):
        app = create_app(ServeSettings(folder=folder, device="cpu", wait_ms=0))
        batcher = app.state.service.batcher
        usual, running, gate = batcher._run, threading.Event(), threading.Event()
        batcher._run = lambda *words: (running.set(), gate.wait(60), usual(*words))[2]
        request = hostile.predict(b"deep")
        with live(app) as port:
            until(lambda: app.state.service.ready)
            links = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
            links[0].sendall(request)
            assert running.wait(60)
            for link in links[1:]:
                link.sendall(request)
            until(lambda: batcher.waiting == 4)
            for link in links:
                link.close()
            until(lambda: batcher.waiting == 0)
            gate.set()
            until(lambda: app.state.service.metrics.registry.get_sample_value("vpt_batch_images_count") == 1)

    def test_a_full_decoder_and_a_closed_one_decode_nothing(self, decoded: list[str]):
        async def scenario() -> None:
            decoder = small_decoder(limit=2)
            with pytest.raises(FullError):
                await decoder.run([Upload("a", png())] * 3, {ReadOptions("full"): lambda pixels, name: name})
            with pytest.raises(TooManyPixelsError, match="12500000"):
                await decoder.run(
                    [Upload("a", plain(2500, 2500, "PNG"))] * 2, {ReadOptions("full"): lambda pixels, name: name}
                )
            decoder.close()
            with pytest.raises(ClosedError):
                await decoder.run([Upload("a", png())], {ReadOptions("full"): lambda pixels, name: name})

        asyncio.run(scenario())
        assert not decoded


class TestTurns:
    def test_memory_is_shared(self):
        async def scenario() -> list[str]:
            turns, done = Turns(3, 100), []

            async def one(name: str, memory: int, pixels: int = 0) -> None:
                amount = await turns.take(pixels, memory)
                assert turns.memory >= 0
                done.append(name)
                await asyncio.sleep(0.01)
                turns.give(amount)

            await asyncio.gather(one("a", 60), one("b", 60), one("c", 30), one("all", 1000))
            assert (turns.free, turns.memory) == (3, 100)
            return done

        assert asyncio.run(scenario()) == ["a", "b", "c", "all"]

    def test_small_images_pass_by_large_ones(self):
        async def scenario() -> list[str]:
            turns, done = Turns(1, 100), []

            async def one(name: str, pixels: int) -> None:
                amount = await turns.take(pixels, 10)
                done.append(name)
                await asyncio.sleep(0)
                turns.give(amount)

            await asyncio.gather(one("first", 0), one("large", 40_000_000), one("small", 10_000), one("next", 20_000))
            return done

        assert asyncio.run(scenario()) == ["first", "small", "next", "large"]

    def test_who_gives_up_leaves_nothing_behind(self):
        async def scenario() -> tuple[int, int]:
            turns = Turns(1, 100)
            amount = await turns.take(0, 100)
            waiting = [asyncio.create_task(turns.take(0, 100)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            turns.give(amount)  # to the second
            waiting[1].cancel()
            await asyncio.gather(*waiting[:2], return_exceptions=True)
            turns.give(await waiting[2])
            return turns.free, turns.memory

        assert asyncio.run(scenario()) == (1, 100)
