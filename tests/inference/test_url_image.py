"""Images at addresses: http and https only, bounded in size and time, one clear sentence for what fails."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from vpt.data.decode import BadImage, decode
from vpt.inference import url_image
from vpt.inference.image_inputs import find_images
from vpt.inference.url_image import UrlImage, is_url
from vpt.utils.errors import UserError


class Site(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Site.asked.append(self.path)
        content = io.BytesIO()
        Image.new("RGB", (6, 4), (200, 10, 30)).save(content, "PNG")
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/missing.png":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/endless.png":
                while True:
                    self.wfile.write(bytes(1 << 16))
            if self.path == "/slow.png":
                threading.Event().wait(3)
            self.wfile.write(b"<html>" if self.path == "/page" else content.getvalue())
        except OSError:
            pass  # the client has hung up

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Site.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_image_is_read_once(site: str):
    ((name, source),) = find_images(f"{site}/cat.png?size=6")
    assert name == f"{site}/cat.png?size=6"
    assert Site.asked == []  # not before it is predicted
    for _ in range(2):
        pixels = decode(source, name=name)
    assert np.array_equal(pixels[0, 0], [200, 10, 30])
    assert Site.asked == ["/cat.png?size=6"]
    assert decode(UrlImage(f"{site}/to/{site}/cat.png")).shape == (4, 6, 3)


def failure(url: str) -> str:
    with pytest.raises(BadImage) as error:
        decode(UrlImage(url))
    assert url in str(error.value)
    return error.value.reason


def test_what_fails_is_one_sentence(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (2, 2)).save(secret)
    assert failure(f"{site}/missing.png") == "the server answers 404 Not Found"
    for target in (f"file://{secret}", "ftp://127.0.0.1/a.png", "data:image/png;base64,AA"):
        reason = failure(f"{site}/to/{target}")
        assert "which is not http or https" in reason or "is not allowed" in reason
    monkeypatch.setattr(url_image, "MOST_BYTES", 1 << 20)
    assert "it is larger than 1 MB" in failure(f"{site}/endless.png")
    monkeypatch.setattr(url_image, "SECONDS", 0.3)
    assert "took longer than" in failure(f"{site}/slow.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "could not download it: " in failure(f"http://127.0.0.1:{port}/a.png")
    assert "could not download it: " in failure("http://127.0.0.1:99999/a.png")
    assert "could not download it: " in failure("http://exa mple/a.png")
    assert failure(f"{site}/page") != ""


def test_other_schemes_are_no_addresses():
    assert not any(map(is_url, ("file:///etc/passwd", "ftp://host/a.png", "data:image/png;base64,AA", "photos/a.png")))
    with pytest.raises(UserError, match="there is no such file"):
        find_images("file:///etc/hostname.png")


def test_the_server_fetches_nothing():
    """No module of the server or of banks uses the inputs of prediction, which follow addresses."""
    import vpt

    package = Path(vpt.__file__).parent / "inference"
    for file in [*(package / "server").rglob("*.py"), *(package / "bank").rglob("*.py")]:
        assert "url_image" not in file.read_text(), file
        assert "find_images" not in file.read_text(), file
