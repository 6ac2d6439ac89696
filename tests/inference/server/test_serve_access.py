"""Who learns what: keys, hosts, other sites' pages, names of files, and what stands in the log alone."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from tests.helpers.bank_tasks import make
from tests.helpers.paths import ROOT
from tests.helpers.serving import ask, png, ready, until
from vpt.cli.main import main
from vpt.cli.serve import NUMBERS
from vpt.inference.server import api_keys
from vpt.inference.server.api_keys import KeyFile, add_key
from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings
from vpt.inference.server.watch_folder import ELSEWHERE, REFUSED
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import digest_of


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    """A folder of one task, whose content a test may change."""
    place = tmp_path / "tasks"
    place.mkdir()
    shutil.copy(folder / "deep.safetensors", place / "deep.safetensors")
    return place


def served(folder: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(ServeSettings(folder=folder, device="cpu", reload_s=0.05, **settings)))


def pages(client: TestClient) -> str:
    """All that may be read without a form, each with status 200 or 503."""
    answers = [client.get(address) for address in ("/", "/ready", "/metrics", "/health", "/openapi.json")]
    assert all(answer.status_code in (200, 503) for answer in answers)
    return "".join(answer.text for answer in answers)


class TestKeys:
    @pytest.fixture
    def keyed(self, folder: Path, tmp_path: Path) -> Iterator[tuple[TestClient, str, Path]]:
        file = tmp_path / "api_keys.json"
        key = add_key(file, ["deep*", "cut"])
        with served(folder, keys=file) as client:
            until(lambda: client.app.state.service.ready)
            yield client, key, file

    def test_without_a_key_no_name_is_told(self, keyed: tuple[TestClient, str, Path]):
        client, key, _ = keyed
        assert ask(client, [png()], ["deep"]).status_code == 401
        client.headers["x-api-key"] = key
        assert ask(client, [png()], ["deep"]).status_code == 200  # so that it stands in the counts
        for wrong in ("", key + "x"):
            client.headers["x-api-key"] = wrong
            text = pages(client)
            assert not [name for name in ("deep", "shallow", "cut") if f'"{name}' in text]
            assert re.search(r"^vpt_tasks \d+\.0$", text, re.M)
            assert json.loads(client.get("/ready").text) == {"ready": True, "tasks": 5, "waiting": 0}

    def test_with_a_key_its_own_names_are_told(self, keyed: tuple[TestClient, str, Path]):
        client, key, _ = keyed
        client.headers["authorization"] = f"Bearer {key}"
        assert ask(client, [png()], ["deep"]).status_code == 200
        assert client.get("/ready").json()["bad"] == {"cut": REFUSED}
        counts = client.get("/metrics").text
        assert 'vpt_images_total{task="deep"} 1.0' in counts
        assert "shallow" not in counts
        answers = {ask(client, [png()], [name]).status_code for name in ("shallow", "nothing", "boxes")}
        assert answers == {404}

    def test_a_broken_file_closes_nothing_and_is_said(
        self, keyed: tuple[TestClient, str, Path], caplog: pytest.LogCaptureFixture
    ):
        client, key, file = keyed
        client.headers["x-api-key"] = key
        good = file.read_text()
        for broken in ("{broken", '{"x": []}', json.dumps({"\u00e9" * 64: ["*"]}), None):
            caplog.clear()
            file.unlink()
            if broken is not None:
                file.write_text(broken)
            until(lambda: "keys" in client.get("/ready").json())
            assert ask(client, [png()], ["deep"]).status_code == 200
            assert "vpt_keys_broken 1.0" in client.get("/metrics").text
            assert str(file) not in client.get("/ready").text
            file.write_text(good)
            until(lambda: "keys" not in client.get("/ready").json())
            lines = [line.getMessage() for line in caplog.records if "the keys" in line.getMessage()]
            assert len([line for line in lines if "the keys that were read before remain valid" in line]) == 1
        file.write_text("{}")  # this closes all
        until(lambda: client.get("/v1/tasks").status_code == 401)

    def test_digests_must_be_digests(self, tmp_path: Path):
        """hmac.compare_digest raises on text that is no ASCII."""
        file = tmp_path / "api_keys.json"
        for text in ("\u00e9" * 64, "x" * 64, "a" * 63):
            file.write_text(json.dumps({text: ["*"]}))
            with pytest.raises(UserError, match="must contain"):
                KeyFile(file)

    def test_a_key_is_looked_up_once_whatever_the_number_of_tasks(self, tmp_path: Path, monkeypatch):
        add_key(tmp_path / "api_keys.json", ["*"])
        looked = []
        usual = api_keys.digest_of
        monkeypatch.setattr(api_keys, "digest_of", lambda key: (looked.append(1), usual(key))[1])
        KeyFile(tmp_path / "api_keys.json").keys.allowed("key", [f"task {number}" for number in range(1000)])
        assert len(looked) == 1


class TestBrowsers:
    def test_every_answer_says_what_a_browser_may_do_with_it(self, folder: Path):
        with served(folder) as client:
            answers = [client.get("/"), client.get("/ready"), client.get("/nothing"), client.post("/v1/predict")]
            answers.append(client.get("/health", headers={f"x-{number}": "y" for number in range(200)}))
            for answer in answers:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["x-frame-options"] == "DENY"
                assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert [answer.status_code for answer in answers] == [200, 503, 404, 415, 431]
            policy, page = answers[0].headers["content-security-policy"], answers[0].text
            assert "unsafe" not in policy
            assert len(re.findall("sha256-", policy)) == len(re.findall("<script>|<style>", page))
            assert not re.findall(r"<[^>]+ (?:style|on\w+)=", page)  # which the policy forbids

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("a.example.com", 200),
            ("example.com", 400),
            ("elsewhere.invalid:8000", 400),
            ("localhost.elsewhere.invalid", 400),
            ("", 400),
        ],
    )
    def test_hosts(self, folder: Path, host: str, status: int):
        hosts = ("localhost", "127.0.0.1", "[::1]", "*.example.com")
        client = TestClient(create_app(ServeSettings(folder=folder, device="cpu", allowed_hosts=hosts)))
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code == status
        assert (status == 200) or "--allowed-hosts" in answer.json()["detail"]

    def test_pages_of_other_sites_do_not_have_us_compute(self, folder: Path):
        with served(folder) as client:
            ready(client)
            for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
                client.headers["sec-fetch-site"] = site
                assert ask(client, [png()], ["deep"]).status_code == status

    def test_answers_are_handed_over_in_pieces(self, folder: Path):
        """A reader that takes nothing holds a piece of an answer in the buffers of its connection, not all of it."""
        import asyncio

        from vpt.inference.server.middleware import PIECE, Guard

        for size in (0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5):
            body, sent = os.urandom(size), []

            async def app(scope: Any, receive: Any, send: Any, body: bytes = body) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": body})

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            asyncio.run(Guard(app, (), b"")({"type": "http", "headers": [], "method": "GET"}, None, send))
            parts = sent[1:]
            assert b"".join(part["body"] for part in parts) == body
            assert max(len(part["body"]) for part in parts) <= PIECE
            assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]


class TestFolder:
    def test_why_a_file_is_not_served_stands_in_the_log_once(self, root: Path, caplog: pytest.LogCaptureFixture):
        (root / "odd.safetensors").write_bytes(b"\x1b[2J not an artifact")
        with served(root) as client:
            ready(client)
            assert client.get("/ready").json()["bad"] == {"odd": REFUSED}
            client.app.state.service.folder.refresh()
            client.app.state.service.folder.refresh()
            assert str(root) not in pages(client)
        lines = [line.getMessage() for line in caplog.records if "odd is not served" in line.getMessage()]
        assert len(lines) == 1
        assert "odd.safetensors" in lines[0]
        assert lines[0].isprintable()

    @pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no such names")
    def test_names_that_are_no_text_are_listed_escaped(self, root: Path):
        content = (root / "deep.safetensors").read_bytes()
        for name in (b"caf\xe9", b"line\nbreak", b" edge", b"\xe2\x80\xaegnp", b"\x1b[31m"):
            Path(os.fsdecode(os.fsencode(root) + b"/" + name + b".safetensors")).write_bytes(content)
        with served(root) as client:
            found = ready(client)
            assert sorted(found["bad"]) == sorted(
                ["caf\\xe9", "line\\u000abreak", " edge", "\\u202egnp", "\\u001b[31m"]
            )
            assert [row["name"] for row in client.get("/v1/tasks").json()["tasks"]] == ["deep"]
            pages(client)
            assert ask(client, [png()], ["deep"]).status_code == 200

    def test_class_names_that_are_no_text(self, root: Path):
        """Whether the artifact is refused or its names are escaped: no address fails."""
        path = root / "deep.safetensors"
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            text = file.metadata()["vpt"].partition(" ")[2]
        text = text.replace('"deep 0"', '"\\ud800 \\u0000 <b>"')
        tensors = load_file(path)
        save_file(tensors, root / "odd.safetensors", {"vpt": f"{digest_of(tensors, text)} {text}"})
        with served(root) as client:
            ready(client)
            until(lambda: len(client.app.state.service.folder.tasks) + len(client.app.state.service.folder.bad) == 2)
            assert client.get("/v1/tasks").status_code == 200
            pages(client)
            assert ask(client, [png()], ["deep"]).status_code == 200
            assert ask(client, [png()], ["odd"]).status_code in (200, 404)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
    def test_a_folder_that_may_not_be_read_costs_only_itself(self, root: Path):
        (root / "closed").mkdir(mode=0)
        with served(root) as client:
            ready(client)

    def test_while_a_backbone_loads_everything_answers(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        from vpt.inference.bank import shared_backbone

        usual, loading, gate = shared_backbone.load_backbone, threading.Event(), threading.Event()
        monkeypatch.setattr(
            shared_backbone,
            "load_backbone",
            lambda *words, **more: (loading.set(), gate.wait(60), usual(*words, **more))[2],
        )
        with served(root) as client:
            try:
                assert loading.wait(60)
                assert client.get("/health").status_code == 200
                assert client.get("/ready").status_code == 503
                assert client.get("/v1/tasks").json() == {"tasks": []}
                answer = ask(client, [png()], ["deep"])
                assert answer.status_code == 503
                assert "still loading" in answer.json()["detail"]
                assert client.get("/metrics").status_code == 200
            finally:
                gate.set()
            ready(client)
            assert ask(client, [png()], ["deep"]).status_code == 200

    def test_the_event_loop_waits_for_nothing_that_loads(self, root: Path):
        with served(root) as client:
            ready(client)
            with client.app.state.service.bank._lock:
                found = []
                asking = threading.Thread(target=lambda: found.append(ask(client, [png()], ["deep"]).status_code))
                asking.start()
                until(lambda: client.app.state.service.decoder.waiting == 1)
                for address in ("/health", "/ready", "/metrics", "/v1/tasks", "/"):
                    assert client.get(address).status_code == 200
            asking.join(60)
            assert found == [200]

    def test_predictions_do_not_wait_for_another_backbone(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        """The text tower that the first task with names brings, say."""
        with served(root) as client:
            ready(client)
            with client.app.state.service.bank._backbone.loading:
                found = []
                asking = threading.Thread(target=lambda: found.append(ask(client, [png()], ["deep"]).status_code))
                asking.start()
                asking.join(60)
            assert found == [200]


def test_limits_stand_in_the_documentation():
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    settings = ServeSettings(folder=Path("."))
    for name in NUMBERS:
        told = re.findall(rf"^\| `--{name}` \| ([^|]+) \|", text, re.M)
        assert len(told) == 1, name
        value = getattr(settings, name.replace("-", "_"))
        shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
        assert told[0] == ("2 to 8" if name == "decode-threads" else shown), name


class TestBackbone:
    @pytest.fixture
    def mixed(self, root: Path, tmp_path: Path) -> Path:
        """The first file by name is of another backbone."""
        words = ["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.image_size=32"]
        shutil.copy(make(tmp_path, "other", 1, *words), root / "another.safetensors")
        return root

    def test_the_first_file_chooses_it_and_the_log_says_so(self, mixed: Path, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.INFO, "vpt.inference.server")
        with served(mixed) as client:
            assert ready(client)["bad"] == {"deep": ELSEWHERE}
        assert (
            "the backbone is vit_tiny_patch16_224, that of the first artifact, another; specify the one" in caplog.text
        )

    def test_it_is_named(self, mixed: Path, caplog: pytest.LogCaptureFixture):
        with served(mixed, backbone="vpt_nano") as client:
            assert ready(client)["bad"] == {"another": ELSEWHERE}
            assert ask(client, [png()], ["deep"]).status_code == 200
        lines = [line for line in caplog.records if "another is not served" in line.getMessage()]
        assert len(lines) == 1
        assert lines[0].levelno == logging.WARNING
        assert "was trained on backbone vit_tiny_patch16_224" in lines[0].getMessage()

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--backbone", "nothing"], "backbone nothing does not exist in timm"),
            (["--weights", "w.pth"], "--weights belongs to a backbone; name it with --backbone"),
            (["--backbone", "vpt_nano", "--weights", "none.pth"], "backbone.weights=none.pth: there is no such file"),
            (["--formats", "EPS"], "--formats EPS: known formats are JPEG, PNG"),
            (["--allowed-hosts", "a*b"], "--allowed-hosts a*b: a star is only allowed at the beginning"),
            (["--connections", "0"], "--connections 0"),
        ],
    )
    def test_mistakes_are_one_sentence(self, root: Path, capsys: Any, words: list[str], sentence: str):
        assert main(["serve", str(root), *words]) == 2
        found = capsys.readouterr().err
        assert sentence in found
        assert found.count("\n") == 1
