"""A server under load: latency, and whether an answer was lost or swapped, while tasks come and go.

    python -m benchmarks.speed.server_load                        # 20 tasks, 32 clients, 30 seconds, over loopback
    python -m benchmarks.speed.server_load --clients 64 --seconds 60 --workers 2

Starts `vpt serve` on a folder of tasks made for it. Every client sends a JPEG of its own to a task of its own choice,
waits for the answer and sends the next; each answer is compared with the task's own model. Meanwhile a guest task is
copied into the folder and taken out again, over and over. Results go to benchmarks/results/load-<device>.json.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

import vpt
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from benchmarks.speed.bank import make
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_device

PHOTOS = 16
CLOSE = 1e-4


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--weights", help="file of the backbone's weights")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--tokens", type=int, nargs=2, default=(5, 20), help="shortest and longest prompt")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.set_defaults(random=False, lora=0)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "tasks")
        folder.mkdir()
        artifacts = make(options, folder)
        guest = Path(place, "guest.safetensors")
        shutil.copy(artifacts["task 1"], guest)
        photos = [jpeg(number) for number in range(PHOTOS)]
        expected = answers_of(artifacts, photos, options.device)
        port = free_port()
        command = [sys.executable, "-m", "vpt", "serve", str(folder), "--port", str(port), "--reload-s", "0.2"]
        command += ["--device", options.device, "--workers", str(options.workers)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = asyncio.run(load(f"http://127.0.0.1:{port}", options, photos, expected, folder, guest))
        finally:
            server.terminate()
            server.wait(timeout=60)
    device = pick_device(options.device)
    given = {key: getattr(options, key) for key in ("backbone", "tasks", "clients", "workers")}
    result = {"machine": machine(device), **given, **found}
    write_json(options.out or RESULTS / f"load-{device.type}.json", result)
    print(result)


def jpeg(seed: int) -> bytes:
    """A smooth picture that is like no other."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def answers_of(artifacts: dict[str, Path], photos: list[bytes], device: str) -> dict[tuple[str, int], dict[str, float]]:
    """Scores of every photo by each task's own model."""
    pictures = [np.asarray(Image.open(io.BytesIO(content))) for content in photos]
    found = {}
    for name, path in artifacts.items():
        for number, answer in enumerate(vpt.load(path, device=device).predict(pictures, top=1000)):
            found[name, number] = answer.to_dict()["scores"]
    return found


async def load(
    address: str,
    options: argparse.Namespace,
    photos: list[bytes],
    expected: dict[tuple[str, int], dict[str, float]],
    folder: Path,
    guest: Path,
) -> dict[str, Any]:
    """Ask for some seconds; what came back."""
    names = sorted({name for name, _ in expected})
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as web:
        await until_ready(web)
        end = time.monotonic() + options.seconds
        times: list[float] = []
        counts = {"right": 0, "wrong": 0, "refused": 0, "lost": 0, "guest": 0, "guest changes": 0}

        async def client(seed: int) -> None:
            chance = np.random.default_rng(seed)
            while time.monotonic() < end:
                name, photo = names[chance.integers(len(names))], int(chance.integers(len(photos)))
                begun = time.monotonic()
                try:
                    data = {"tasks": name, "top": "1000"}
                    answer = await web.post("/v1/predict", files={"images": photos[photo]}, data=data)
                except httpx.TransportError:
                    counts["lost"] += 1
                    continue
                if answer.status_code in (429, 503):
                    counts["refused"] += 1
                    await asyncio.sleep(0.05)
                    continue
                times.append(time.monotonic() - begun)
                counts["right" if same(answer, name, expected[name, photo]) else "wrong"] += 1

        async def guests() -> None:
            while time.monotonic() < end:
                shutil.copy(guest, folder / ".guest")
                (folder / ".guest").rename(folder / "guest.safetensors")
                await asyncio.sleep(0.5)
                answer = await web.post("/v1/predict", files={"images": photos[0]}, data={"tasks": "guest"})
                counts["guest"] += answer.status_code == 200
                (folder / "guest.safetensors").unlink()
                await asyncio.sleep(0.5)
                counts["guest changes"] += 2

        begun = time.monotonic()
        await asyncio.gather(guests(), *(client(seed) for seed in range(options.clients)))
        seconds = time.monotonic() - begun
    cuts = statistics.quantiles(times, n=100)
    return {
        "seconds": seconds,
        "requests_per_second": len(times) / seconds,
        "latency_ms": {f"p{cut}": 1000 * cuts[cut - 1] for cut in (50, 95, 99)},
        "answers": counts,
    }


def same(answer: httpx.Response, name: str, expected: dict[str, float]) -> bool:
    """Whether an answer is that of its own task and photo."""
    if answer.status_code != 200:
        return False
    (row,) = answer.json()["results"]
    if row["task"] != name or set(row["scores"]) != set(expected):
        return False
    return all(abs(row["scores"][label] - score) < CLOSE for label, score in expected.items())


async def until_ready(web: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await web.get("/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not become ready within a minute")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
