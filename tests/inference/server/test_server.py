"""The HTTP service: right answers, and a clean status for whatever goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import vpt
from tests.helpers.serving import TASKS, ask, live, png, ready, until
from vpt.data.segmentation.run_lengths import mask_of
from vpt.inference.bank.task import TaskError
from vpt.inference.server.api_keys import add_key
from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(ServeSettings(folder=folder, device="cpu", upload_mb=1, max_images=4))) as made:
        ready(made)
        yield made


class TestAnswers:
    def test_they_equal_each_tasks_own_model(self, client: TestClient, folder: Path):
        images = [png(seed) for seed in range(3)]
        answer = ask(client, images, list(TASKS), score="0.001")
        assert answer.status_code == 200
        rows = answer.json()["results"]
        assert [(row["image"], row["task"]) for row in rows] == [(f"{n}.png", t) for n in range(3) for t in TASKS]
        for row in rows:
            place = folder / row["task"] if row["task"] == "shallow" else folder / f"{row['task']}.safetensors"
            photo = np.asarray(Image.open(io.BytesIO(images[int(row["image"][0])])))
            own = vpt.load(place, device="cpu").predict(photo)[0].to_dict()
            if row["task"] == "boxes":
                assert [box["label"] for box in row["boxes"]][:3] == [box["label"] for box in own["boxes"]][:3]
            elif row["task"] == "masks":
                mine, theirs = (mask_of(each["segments"], ["masks 0", "masks 1", "masks 2"]) for each in (row, own))
                assert (mine == theirs).mean() > 0.999
            else:
                assert row["scores"] == pytest.approx(own["scores"], abs=1e-5)

    def test_large_masks_are_reduced(self, client: TestClient, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vpt.inference.server.batched_work.MOST_PIXELS", 700)
        (row,) = ask(client, [png(size=(50, 64))], ["masks"]).json()["results"]
        assert (row["width"], row["height"]) == (22, 17)
        assert sum(one["pixels"] for one in row["segments"]) == 22 * 17
        assert all(one["rle"]["size"] == [17, 22] for one in row["segments"])

    def test_top_and_score(self, client: TestClient):
        rows = ask(client, [png()], ["shallow", "boxes"], top="1", score="1").json()["results"]
        assert len(rows[0]["scores"]) == 1
        assert rows[1]["boxes"] == []

    def test_tasks_may_be_joined_by_commas_and_count_once(self, client: TestClient):
        rows = ask(client, [png()], ["deep,shallow", "deep"]).json()["results"]
        assert [row["task"] for row in rows] == ["deep", "shallow"]

    def test_a_bad_image_is_named_beside_the_answers_of_the_others(self, client: TestClient):
        rows = ask(client, [png(), b"nothing"], ["deep"]).json()["results"]
        assert set(rows[0]["scores"]) == {"deep 0", "deep 1"}
        assert rows[1]["image"] == "1.png"
        assert "scores" not in rows[1]
        assert rows[1]["error"]

    def test_attention(self, client: TestClient):
        answer = client.post("/v1/attention", files={"images": png()}, data={"tasks": "deep"})
        found = answer.json()
        assert found["grid"] == [8, 8]
        assert found["square"].startswith("data:image/png;base64,")
        assert np.asarray(found["rollout"]).shape == (8, 8)
        assert np.asarray(found["prompts"]).shape == (6, 8, 8)
        assert client.post("/v1/attention", files={"images": png()}, data={"tasks": "boxes"}).status_code == 422

    def test_nothing_is_lost_or_swapped_under_load(self, folder: Path):
        """120 requests at once, each with its own image and task; every answer is checked."""
        app = create_app(ServeSettings(folder=folder, device="cpu", max_batch=16))
        names = ["deep", "deep-longer", "shallow"]
        wanted = [(number % 7, names[number % 3]) for number in range(120)]

        async def all_of_them() -> list[httpx.Response]:
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://here") as web:
                    while (await web.get("/ready")).status_code != 200:
                        await asyncio.sleep(0.05)
                    posts = [
                        web.post("/v1/predict", files={"images": png(seed)}, data={"tasks": task})
                        for seed, task in wanted
                    ]
                    return list(await asyncio.gather(*posts))

        answers = asyncio.run(all_of_them())
        own = {n: vpt.load(folder / n if n == "shallow" else folder / f"{n}.safetensors", "cpu") for n in names}
        expected = {
            (seed, name): own[name].predict(np.asarray(Image.open(io.BytesIO(png(seed)))))[0].to_dict()["scores"]
            for seed, name in set(wanted)
        }
        for which, answer in zip(wanted, answers, strict=True):
            assert answer.json()["results"][0]["scores"] == pytest.approx(expected[which], abs=1e-5)
        sizes = app.state.service.metrics.registry.get_sample_value("vpt_batch_images_count")
        assert sizes < 120  # they did share batches


class TestOverview:
    def test_tasks_with_their_classes(self, client: TestClient):
        rows = {row["name"]: row for row in client.get("/v1/tasks").json()["tasks"]}
        assert sorted(rows) == sorted(TASKS)
        assert rows["deep"]["classes"] == ["deep 0", "deep 1"]
        assert rows["boxes"]["task"] == "detection"

    def test_bad_artifacts_are_skipped_and_named(self, client: TestClient):
        found = client.get("/ready").json()
        assert found["ready"]
        # Why stands in the log: an error may hold paths, and what a stranger wrote into a file.
        refused = "it cannot be served; see the log of the server"
        assert found["bad"] == {"cut": refused, "text": refused}

    def test_health_openapi_page(self, client: TestClient):
        assert client.get("/health").json() == {"status": "alive"}
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/predict", "/v1/tasks", "/v1/attention", "/health", "/ready", "/metrics"} <= set(paths)
        form = paths["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == ["images", "tasks"]
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "<title>vpt</title>" in page.text

    def test_metrics_count(self, client: TestClient):
        def value(name: str) -> float:
            lines = client.get("/metrics").text.splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

        before = value('vpt_images_total{task="deep"}'), value('vpt_requests_total{status="200"}')
        ask(client, [png(), png(1)], ["deep"])
        ask(client, [png()], ["nobody"])
        after = value('vpt_images_total{task="deep"}'), value('vpt_requests_total{status="200"}')
        assert (after[0] - before[0], after[1] - before[1]) == (2, 1)
        assert value('vpt_requests_total{status="404"}') >= 1
        assert value("vpt_bad_artifacts") == 2
        assert value("vpt_tasks ") == len(TASKS)


def giant_png() -> bytes:
    """A file of some hundred bytes that says it holds ten thousand million pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "truncated": png()[:200],
    "giant": giant_png(),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "zeros": b"\0" * 5000,
}


class TestRefusals:
    @pytest.mark.parametrize("kind", sorted(HOSTILE))
    def test_hostile_images(self, client: TestClient, kind: str):
        answer = ask(client, [HOSTILE[kind]], ["deep"])
        assert answer.status_code == 422
        assert "0.png" in answer.json()["detail"]
        assert client.get("/health").status_code == 200

    @pytest.mark.parametrize(
        "task", ["../deep", "/etc/passwd", "deep/../shallow", "deep\0", "..", "%2e%2e%2fdeep", "a" * 5000, "cut"]
    )
    def test_path_like_tasks_do_not_exist(self, client: TestClient, task: str):
        answer = ask(client, [png()], [task])
        assert answer.status_code == 404
        assert "there is no task" in answer.json()["detail"]
        assert len(answer.text) < 400

    def test_a_misspelt_task_is_answered_with_the_nearest(self, client: TestClient):
        assert "did you mean 'shallow'" in ask(client, [png()], ["shalow"]).json()["detail"]

    def test_a_path_in_the_name_of_a_file_is_only_a_name(self, client: TestClient):
        files = {"images": ("../../etc/passwd", png())}
        row = client.post("/v1/predict", files=files, data={"tasks": "deep"}).json()["results"][0]
        assert row["image"] == "../../etc/passwd"
        assert row["scores"]

    @pytest.mark.parametrize(
        ("words", "status", "sentence"),
        [
            ({"json": {"tasks": ["deep"]}}, 415, "multipart/form-data"),
            ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "cannot be read"),
            (
                {"content": b"--b\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=b"}},
                400,
                "cut short",
            ),
            (
                {"content": b"--b--", "headers": {"content-type": "multipart/form-data; boundary=b"}},
                422,
                "at least one image",
            ),
            ({"data": {"tasks": "deep"}, "files": {"other": ("a", b"")}}, 422, None),
            ({"files": {"images": png()}}, 422, "specify at least one task"),
            ({"files": {"images": png()}, "data": {"tasks": "deep", "top": "many"}}, 422, "top=many"),
            ({"files": {"images": png()}, "data": {"tasks": "deep", "score": "7"}}, 422, "from 0 to 1"),
            ({"files": {"images": png()}, "data": {"tasks": ["deep"] * 200}}, 400, "cannot be read"),
            ({"files": [("images", png())] * 5, "data": {"tasks": "deep"}}, 413, "more than 4 images"),
            ({"files": [("images", png())] * 50, "data": {"tasks": "deep"}}, 413, "more than 4 images"),
            ({"files": {"images": b"\0" * 1_500_000}, "data": {"tasks": "deep"}}, 413, "larger than 1 MB"),
        ],
    )
    def test_requests_of_another_form(self, client: TestClient, words: dict, status: int, sentence: str | None):
        answer = client.post("/v1/predict", **words)
        assert answer.status_code == status, answer.text
        if sentence:
            assert sentence in answer.json()["detail"]

    def test_a_body_without_a_length_is_cut_off_too(self, client: TestClient):
        def endless() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield b"\0" * 100_000

        head = {"content-type": "multipart/form-data; boundary=b"}
        assert client.post("/v1/predict", content=endless(), headers=head).status_code == 413

    def test_other_addresses_and_methods(self, client: TestClient):
        assert client.get("/v1/predict").status_code == 405
        assert client.get("/../../etc/passwd").status_code == 404
        assert client.put("/v1/tasks").status_code == 405


def slow_app(folder: Path, seconds: float, **settings: Any) -> Any:
    """An app whose batches take their time."""
    app = create_app(ServeSettings(folder=folder, device="cpu", **settings))
    batcher = app.state.service.batcher
    usual = batcher._run
    batcher._run = lambda *words: (time.sleep(seconds), usual(*words))[1]
    return app


class TestPressure:
    def test_a_full_queue_is_429(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu", queue=2, wait_ms=0))
        batcher = app.state.service.batcher
        usual, running, gate = batcher._run, threading.Event(), threading.Event()
        batcher._run = lambda *words: (running.set(), gate.wait(60), usual(*words))[2]
        found: list[int] = []
        with TestClient(app) as client:
            ready(client)
            threads = [
                threading.Thread(target=lambda n=count: found.append(ask(client, [png()] * n, ["deep"]).status_code))
                for count in (1, 2)
            ]
            threads[0].start()
            assert running.wait(60)
            threads[1].start()
            while batcher.waiting < 2:
                time.sleep(0.01)
            answer = ask(client, [png()], ["deep"])
            gate.set()
            for thread in threads:
                thread.join()
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert found == [200, 200]

    def test_what_never_fits_into_the_queue_is_413(self, folder: Path):
        with TestClient(create_app(ServeSettings(folder=folder, device="cpu", queue=2))) as client:
            ready(client)
            for images, tasks in ((3, ["deep"]), (2, ["deep", "shallow"])):
                answer = ask(client, [png()] * images, tasks)
                assert answer.status_code == 413
                assert "more than the 2 that fit into the queue; send fewer images or tasks" in answer.json()["detail"]
                assert "retry-after" not in answer.headers
            assert ask(client, [png()] * 2, ["deep"]).status_code == 200

    def test_a_slow_answer_is_504_and_the_server_goes_on(self, folder: Path):
        with TestClient(slow_app(folder, 0.6, timeout_s=0.3)) as client:
            ready(client)
            assert ask(client, [png()], ["deep"]).status_code == 504
            client.app.state.service.settings = ServeSettings(folder=folder, timeout_s=120)
            assert ask(client, [png()], ["deep"]).status_code == 200

    def test_before_it_is_ready(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu"))
        client = TestClient(app)  # without its lifespan nothing loads
        assert client.get("/ready").status_code == 503
        answer = ask(client, [png()], ["deep"])
        assert answer.status_code == 503
        assert "still loading" in answer.json()["detail"]

    def test_after_it_closed(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu"))
        client = TestClient(app)
        with client:
            ready(client)
        assert ask(client, [png()], ["deep"]).status_code == 503

    def test_a_task_that_fails_fails_alone(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu", wait_ms=200))
        batcher = app.state.service.batcher
        usual = batcher._run

        def run(works: Any, seconds: float) -> Any:
            if "shallow" in [work.task for work in works]:
                raise TaskError("task shallow predicts scores that are not finite; train it again")
            return usual(works, seconds)

        batcher._run = run
        with TestClient(app) as client:
            ready(client)
            found: dict[str, int] = {}
            threads = [
                threading.Thread(target=lambda t=task: found.__setitem__(t, ask(client, [png()], [t]).status_code))
                for task in ("deep", "shallow", "deep-longer")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == {"deep": 200, "shallow": 422, "deep-longer": 200}


class TestKeys:
    @pytest.fixture
    def keyed(self, folder: Path, tmp_path: Path) -> Iterator[tuple[TestClient, str, Path]]:
        file = tmp_path / "keys.json"
        key = add_key(file, ["deep*"])
        with TestClient(create_app(ServeSettings(folder=folder, device="cpu", keys=file, reload_s=0.1))) as client:
            ready(client)
            yield client, key, file

    def test_without_or_with_a_wrong_one(self, keyed: tuple[TestClient, str, Path]):
        client, key, file = keyed
        assert key not in file.read_text()
        assert client.get("/v1/tasks").status_code == 401
        for header in ("Bearer wrong", "Basic " + key, key, "Bearer " + key + "x", "Bearer é"):
            coded = {"authorization": header.encode("latin-1")}
            assert client.get("/v1/tasks", headers=coded).status_code == 401
        assert ask(client, [png()], ["deep"]).status_code == 401
        assert client.get("/health").status_code == 200

    def test_rights_by_task(self, keyed: tuple[TestClient, str, Path]):
        client, key, _ = keyed
        client.headers["authorization"] = f"Bearer {key}"
        names = [row["name"] for row in client.get("/v1/tasks").json()["tasks"]]
        assert names == ["deep", "deep-longer"]
        assert ask(client, [png()], ["deep"]).status_code == 200
        # Whether a task exists that the key may not use is not given away, nor what it is called.
        answers = [ask(client, [png()], ["deep", name]) for name in ("shallow", "shalow", "nothing")]
        assert [answer.status_code for answer in answers] == [404] * 3
        assert [answer.json()["detail"] for answer in answers] == [
            f"there is no task '{name}'" for name in ("shallow", "shalow", "nothing")
        ]

    def test_keys_are_read_again_and_bad_files_change_nothing(self, keyed: tuple[TestClient, str, Path]):
        client, key, file = keyed
        other = add_key(file, ["*"])
        until(lambda: client.get("/v1/tasks", headers={"x-api-key": other}).status_code == 200)
        file.write_text("{broken")
        time.sleep(0.4)
        assert client.get("/v1/tasks", headers={"x-api-key": other}).status_code == 200
        file.write_text("{}")
        until(lambda: client.get("/v1/tasks", headers={"x-api-key": key}).status_code == 401)


def test_tasks_come_change_and_go_with_the_folder(folder: Path, tmp_path: Path):
    root = tmp_path / "tasks"
    root.mkdir()
    shutil.copy(folder / "deep.safetensors", root / "one.safetensors")

    with TestClient(create_app(ServeSettings(folder=root, device="cpu", reload_s=0.05))) as client:
        ready(client)

        def classes() -> dict[str, list[str]]:
            return {row["name"]: row["classes"] for row in client.get("/v1/tasks").json()["tasks"]}

        assert classes() == {"one": ["deep 0", "deep 1"]}
        shutil.copy(folder / "shallow" / "artifact.safetensors", root / "new.part")
        (root / "new.part").rename(root / "two, too.safetensors")
        until(lambda: "two, too" in classes())
        answer = ask(client, [png()], ["two, too", "one"]).json()  # a name with a comma is one name
        assert [row["task"] for row in answer["results"]] == ["two, too", "one"]
        shutil.copy(folder / "deep-longer.safetensors", root / "one.safetensors")
        until(lambda: classes().get("one") == ["deep-longer 0", "deep-longer 1", "deep-longer 2"])
        # A bad file in place of a good one: named, and the one in memory goes on.
        (root / "one.safetensors").write_bytes(b"broken")
        until(lambda: "one" in client.get("/ready").json()["bad"])
        assert ask(client, [png()], ["one"]).status_code == 200
        (root / "two, too.safetensors").unlink()
        until(lambda: "two, too" not in classes())
        assert ask(client, [png()], ["two, too"]).status_code == 404
        (root / "one.safetensors").unlink()
        until(lambda: client.get("/ready").status_code == 503)
        shutil.rmtree(root)
        time.sleep(0.2)
        assert client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def live_port(folder: Path) -> Iterator[int]:
    with live(create_app(ServeSettings(folder=folder, device="cpu"))) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
            ready(web)
        yield port


class TestSlowClients:
    def test_a_body_that_does_not_come_is_408(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu", upload_s=0.5))
        with live(app) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as link:
            link.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            answer = b"".join(iter(lambda: link.recv(4000), b"")).decode()
        assert answer.startswith("HTTP/1.1 408")
        assert "did not arrive within 0.5 seconds" in answer

    def test_many_that_hang_do_not_hold_the_others_up(self, live_port: int):
        links = [socket.create_connection(("127.0.0.1", live_port), timeout=60) for _ in range(50)]
        for number, link in enumerate(links):
            link.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: h" if number % 2 else b"\x16\x03\x01\0\0garbage")
        with httpx.Client(base_url=f"http://127.0.0.1:{live_port}", timeout=60) as web:
            assert ask(web, [png()], ["deep"]).status_code == 200
        for link in links:
            link.close()

    def test_a_client_that_goes_away_is_forgotten(self, live_port: int):
        body = httpx.Request("POST", "http://h/", files={"images": png()}, data={"tasks": "deep"})
        content = body.read()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: h\r\nContent-Length: {len(content)}\r\n"
        head += f"Content-Type: {body.headers['content-type']}\r\n\r\n"
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", live_port), timeout=60) as link:
                link.sendall(head.encode() + content)
        with httpx.Client(base_url=f"http://127.0.0.1:{live_port}", timeout=60) as web:
            row = ask(web, [png()], ["shallow"]).json()["results"][0]
            assert row["task"] == "shallow"
            assert len(row["scores"]) == 4
            assert json.loads(web.get("/ready").text)["waiting"] == 0
