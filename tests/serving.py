"""A folder of tasks to serve, and what asks a server."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from test_bank import make

TASKS = ("deep", "deep-longer", "shallow", "boxes")


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


def ready(client: Any) -> dict[str, Any]:
    for _ in range(200):
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
