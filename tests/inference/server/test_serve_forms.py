"""Forms from strangers: bounded work, bounded memory, one encoding, and a clean answer to whatever is sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.helpers.serving import ask, live, png, ready, received, status, talk, until

# isort: split
from benchmarks.robustness import requests as hostile
from benchmarks.robustness.uploads import LARGE, SMALL, uploads
from vpt.inference.server.app import create_app
from vpt.inference.server.multipart import PADDING, SLICE, Form, FormError, FormReader, Holding, Upload, Uploads
from vpt.inference.server.settings import ServeSettings

KIND = "multipart/form-data; boundary=" + hostile.BOUNDARY.decode()


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(ServeSettings(folder=folder, device="cpu", max_images=4, max_tasks=8))) as made:
        ready(made)
        yield made


def read(body: bytes, kind: str = KIND, images: int = 4, fields: int = 4, piece: int = SLICE) -> Any:
    reader = FormReader(kind, images, fields)
    for start in range(0, len(body), piece):
        reader.feed(body[start : start + piece])
    return reader.finish()


@pytest.mark.parametrize("piece", [1, 7, SLICE])
def test_a_form_in_pieces_of_any_size(piece: int):
    body = hostile.form(
        hostile.image(b"\r\n--bound \r\n", "caf\u00e9.png".encode()),
        hostile.field(b"tasks", "d\u00e9ep".encode()),
        hostile.image(b"", b""),
        hostile.field(b"other", b"x"),
        hostile.field(b"top", b"3"),
    )
    found = read(body, piece=piece)
    assert [(image.name, image.content) for image in found.images] == [
        ("caf\u00e9.png", b"\r\n--bound \r\n"),
        ("image 2", b""),
    ]
    assert found.tasks == ("d\u00e9ep",)
    assert found.fields["top"] == "3"


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "zlib_codec", "utf-16", "nothing", "utf-8\0"])
def test_utf_8_is_the_only_encoding(client: TestClient, charset: str):
    """Python's punycode takes minutes for a megabyte."""
    body = hostile.form(hostile.image(), hostile.field(b"tasks", b"a-" + b"a" * 5000))
    with pytest.raises(FormError, match="send the form in UTF-8"):
        read(body, f"{KIND}; charset={charset}")
    if "\0" not in charset:
        headers = {"content-type": f"{KIND}; charset={charset}"}
        answer = client.post("/v1/predict", content=body, headers=headers)
        assert answer.status_code == 415
    assert read(hostile.form(hostile.field(b"tasks", b"a")), f"{KIND}; charset=UTF-8").tasks == ("a",)


def test_a_field_that_is_no_utf_8(client: TestClient):
    answer = client.post(
        "/v1/predict",
        content=hostile.form(hostile.image(), hostile.field(b"tasks", b"\xed\xa0\x80")),
        headers={"content-type": KIND},
    )
    assert answer.status_code == 400
    assert "the field 'tasks' is not UTF-8" in answer.json()["detail"]


@pytest.mark.parametrize("value", [b"ab,", b",", b" ", b"a"])
def test_megabytes_of_tasks_are_refused_while_they_come(value: bytes):
    body = hostile.form(hostile.image(), hostile.field(b"tasks", value * (8_000_000 // len(value))))
    reader = FormReader(KIND, 4, 4)
    tracemalloc.start()
    with pytest.raises(FormError, match="the fields of the form are larger than 64 KB") as caught:
        for start in range(0, len(body), SLICE):
            reader.feed(body[start : start + SLICE])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([hostile.field(b"tasks", b"a")] * 5, "more than 4 fields"),
        ([b"\r\n"], "a part has no name"),
        ([b"\r\n"] * 50, "too many parts"),
        ([hostile.image(b"", b"a", b"X: " + b"y" * 5000)], "malformed|bytes of headers"),
        ([hostile.image(b"", b"a", *[b"X-%d: y" % number for number in range(900)])], "malformed|bytes of headers"),
        ([b"Content-Disposition: attachment\r\n\r\n"], "a part has no name"),
        ([hostile.image(b"", b"a", b"Content-Transfer-Encoding: base64")], "without Content-Transfer-Encoding"),
        ([hostile.image(b"")] * 5, "more than 4 images"),
        ([hostile.field(b"images", b"x")], "'images' must be a file"),
    ],
)
def test_parts_that_are_not_taken(parts: list[bytes], sentence: str):
    with pytest.raises(FormError, match=sentence):
        read(hostile.form(*parts))


def test_the_boundary_within_a_part_is_not_looked_at_without_end():
    """Each costs the parser as much work as hundreds of other bytes."""
    body = hostile.OPEN + (b"\r\n--" + hostile.BOUNDARY + b"x") * 100_000
    with pytest.raises(FormError, match="too many parts"):
        read(body[:SLICE])


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t"])
@pytest.mark.parametrize("piece", [1, 50, 70, SLICE])
def test_blanks_after_a_boundary_are_few(blank: bytes, piece: int):
    """The parser reads them byte by byte: two seconds of the event loop for 18 MB."""
    end = b"\r\n--" + hostile.BOUNDARY
    good = hostile.OPEN + b"x" + end + blank * (PADDING // len(blank)) + b"\r\n" + hostile.field(b"tasks", b"a") + end
    assert read(good + b"--", piece=piece).tasks == ("a",)
    reader, blanks = FormReader(KIND, 4, 4), blank * 100_000
    taken = 0
    with pytest.raises(FormError, match="malformed"):
        for start in range(0, len(blanks), piece):
            reader.feed((hostile.OPEN + b"x" + end + blanks)[start : start + piece])
            taken = start
    assert taken <= len(hostile.OPEN) + len(end) + PADDING + 1


def test_no_kind_of_form_costs_the_parser_more_than_its_bytes():
    """Steps of the parser's loop are counted, for time is not the same everywhere."""
    for name, content in itertools.islice(hostile.requests("task", bulk=200_000), len(hostile.KINDS)):
        head, _, body = content.partition(b"\r\n\r\n")
        if b"POST /v1/predict" in head and b"boundary=boundary\r\n" in head:
            assert steps(body) < 20_000 + len(body) // 50, name


def steps(body: bytes) -> int:
    """How many lines of the parser's own code run for a form."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith("multipart.py"):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(FormError):
            read(body, images=16, fields=72)
    finally:
        sys.settrace(before)
    return count


def test_the_end_is_missing():
    with pytest.raises(FormError, match="cut short"):
        read(hostile.form(hostile.image(), hostile.field(b"tasks", b"a"))[:-4])


def test_names_of_images_are_short_text(client: TestClient):
    for name in (b"a" * 3000, b"\xff\xfe", b"\xed\xa0\x80", b"../../etc/passwd", b"\x1b[2J"):
        body = hostile.form(hostile.image(None, name), hostile.field(b"tasks", b"deep"))
        answer = client.post("/v1/predict", content=body, headers={"content-type": KIND})
        assert answer.status_code == 200
        assert 0 < len(answer.json()["results"][0]["image"]) <= 255


def test_an_answer_has_a_size(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    """A few bytes of a request must not make megabytes of scores."""
    monkeypatch.setattr("vpt.inference.server.predict_requests.MAX_SCORES", 5)
    assert ask(client, [png()] * 2, ["deep"], top="2").status_code == 200
    answer = ask(client, [png()] * 3, ["deep"], top="2")
    assert answer.status_code == 413
    assert "6 scores, more than 5; lower top=2" in answer.json()["detail"]


def test_hostile_requests_over_the_wire(folder: Path, caplog: pytest.LogCaptureFixture):
    """All kinds of them, and good requests with damaged bytes, many at a time; then the server answers as before."""
    settings = ServeSettings(folder=folder, device="cpu", upload_mb=1, upload_s=4, header_s=4, timeout_s=120)
    sent = list(itertools.islice(hostile.requests("deep", bulk=400_000), len(hostile.KINDS) + 100))
    with live(create_app(settings)) as port, ThreadPoolExecutor(16) as pool:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
            ready(web)
        answers = pool.map(lambda request: talk(port, request[1]), sent)
        found = {name: answer for (name, _), answer in zip(sent, answers, strict=True)}
        wrong = {name: answer[:300] for name, answer in found.items() if status(answer) >= 500}
        assert not wrong
        assert not [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
            assert ask(web, [png()], ["deep"]).status_code == 200
            assert "etc/passwd" not in web.get("/ready").text
    statuses = {name: status(answer) for name, answer in found.items()}
    assert statuses["a megabyte in punycode"] == 415
    assert statuses["a compressed request"] == 415
    assert statuses["chunks of one byte"] == 400
    assert statuses["a hundred and one headers"] == 431
    assert statuses["a request from another site's page"] == 403
    assert statuses["tasks of two letters"] == 413
    assert statuses["half a request"] == 0  # the connection is closed


def test_what_was_sent_is_not_kept_until_python_looks_for_cycles(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Errors, tasks and parsers refer to the frames and readers that refer to them. In a process with as many objects
    as torch makes, Python looks for such cycles rarely, and files of 20 MB each would wait for it."""
    made: list[weakref.ref[Any]] = []
    for kind in (Upload, FormReader, Form, Holding):
        noted(kind, made, monkeypatch)
    settings = ServeSettings(folder=folder, device="cpu", upload_mb=1, header_s=0.3, upload_s=0.3)
    kinds = itertools.islice(uploads(bulk=100_000, side=1100), len(SMALL) + len(LARGE))
    task = hostile.field(b"tasks", b"deep")
    sent = [(name, hostile.post(hostile.form(hostile.image(file), task))) for name, file in kinds]
    sent += itertools.islice(hostile.requests("deep", bulk=100_000), len(hostile.KINDS))
    sent += [("good", hostile.predict(b"deep")), ("no task", hostile.predict(b"nothing"))]
    kept = []
    with live(create_app(settings)) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
            ready(web)
        gc.disable()
        try:
            for name, content in sent:
                talk(port, content)
                with contextlib.suppress(AssertionError):
                    until(lambda: all(each() is None for each in made))
                if any(each() is not None for each in made):
                    kept.append(name)
                made.clear()
        finally:
            gc.enable()
    assert not kept


def noted(kind: type, made: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every new object of a class put a weak reference into `made`."""
    usual = kind.__init__

    def init(self: Any, *words: Any, **more: Any) -> None:
        usual(self, *words, **more)
        made.append(weakref.ref(self))

    monkeypatch.setattr(kind, "__init__", init)


class TestUploads:
    def test_the_largest_that_still_comes_makes_room(self):
        async def several() -> tuple[bool, bool, int]:
            uploads = Uploads(1000)
            clocks = [asyncio.timeout(60) for _ in range(3)]
            large, small, done = (uploads.begin(clock) for clock in clocks)
            done.grow(300)
            done.complete()
            large.grow(600)

            async def reading(number: int) -> bool:
                try:
                    async with clocks[number]:
                        if number == 1:
                            small.grow(200)
                            small.complete()
                            return True
                        await asyncio.sleep(30)
                        return True
                except TimeoutError:
                    large.release()
                    return False

            first, second = await asyncio.gather(reading(0), reading(1))
            return first, second, uploads.held

        assert asyncio.run(several()) == (False, True, 500)

    def test_over_the_wire(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu", uploads_mb=0.5))
        with live(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
            ready(web)
            request = hostile.post(hostile.OPEN + bytes(600_000))
            with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
                link.sendall(request[:480_000])
                until(lambda: app.state.service.uploads.held >= 400_000)
                files = {"images": png(size=(120, 120))}
                assert web.post("/v1/predict", files=files, data={"tasks": "deep"}).status_code == 200
                answer = received(link)
            assert status(answer) == 503
            assert b"too many bytes are being uploaded" in answer
            until(lambda: app.state.service.uploads.held == 0)
