"""A folder of tasks to serve, and what asks a server."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from benchmarks.robustness.wire import received, status, talk
from tests.helpers.bank_tasks import make
from vpt.inference.server.uvicorn_main import uvicorn_options

__all__ = ["TASKS", "ask", "fill", "live", "png", "ready", "received", "status", "talk", "until"]
TASKS = ("deep", "deep-longer", "shallow", "boxes", "masks")


def fill(root: Path, made: Path) -> Path:
    """Artifacts under their tasks' names, one of them as a run folder, and two that are bad."""
    for seed, name in enumerate(TASKS):
        path = make(made, name, seed)
        if name == "shallow":
            (root / name).mkdir()
            shutil.copy(path, root / name / "artifact.safetensors")
        else:
            shutil.copy(path, root / f"{name}.safetensors")
    (root / "cut.safetensors").write_bytes((root / "deep.safetensors").read_bytes()[:-100])
    (root / "text.safetensors").write_text("not an artifact")
    (root / "notes.txt").write_text("not looked at")
    return root


def until(check: Callable[[], Any], tries: int = 6000) -> None:
    """Wait until something holds, at least for a minute."""
    for _ in range(tries):
        if check():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to hold")


def ready(client: Any) -> dict[str, Any]:
    for _ in range(2400):
        answer = client.get("/ready")
        if answer.status_code == 200:
            return answer.json()
        time.sleep(0.05)
    raise AssertionError(answer.text)


def png(seed: int = 0, size: tuple[int, int] = (50, 64)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(client: Any, images: list[bytes], tasks: list[str], **fields: str) -> Any:
    files = [("images", (f"{number}.png", content)) for number, content in enumerate(images)]
    return client.post("/v1/predict", files=files, data={"tasks": tasks, **fields})


@contextlib.contextmanager
def live(app: Any, **options: Any) -> Iterator[int]:
    """The port of an app that uvicorn serves, as `vpt serve` has it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, **{**uvicorn_options(), "log_config": None, **options}))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=120)
        assert not thread.is_alive()
