"""What goes wrong in practice, done on purpose, many times: kills, damaged files, mutated images and configurations.

    python -m benchmarks.robustness.faults                       # all, about a quarter of an hour on two cores
    python -m benchmarks.robustness.faults --only configs images

Each line of the result says how often a fault was made and what came of it; anything but a clean outcome is counted as
such and named. Results go to benchmarks/results/faults.json.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.config import load_config
from vpt.data.decode import BadImage, decode
from vpt.training.run import resume, train
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors

ROOT = Path(__file__).resolve().parents[2]
RUN = ["data=digits", "data.shots=10", "data.augment=light", "data.workers=0", "backbone=vpt_nano", "prompt.tokens=2"]
RUN += ["train.epochs=3", "train.batch_size=20", "train.checkpoint_minutes=0", "train.eval_every=2", "name=run"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = RESULTS / "faults.json"
    found: dict[str, Any] = json.loads(out.read_text())["faults"] if out.exists() else {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as place:
            found[name] = FAULTS[name](Path(place), random.Random(options.seed))
        print(name, found[name], flush=True)
        write_json(out, {"machine": machine(torch.device("cpu")), "seed": options.seed, "faults": found})


def kills(place: Path, chance: random.Random, times: int = 50) -> dict[str, Any]:
    """SIGKILL at random moments of a run, from its start to its end; then it goes on."""
    quiet = Console(quiet=True)
    begun = time.monotonic()
    whole = train(load_config(overrides=[*RUN, f"out={place / 'whole'}"]), quiet)
    length = time.monotonic() - begun
    expected = whole.artifact.read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(times):
        out = place / str(number)
        process = multiprocessing.get_context("fork").Process(target=_train, args=(out,))
        process.start()
        time.sleep(chance.uniform(0, length))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        if not (out / "run" / "checkpoint.safetensors").is_file():
            # Killed before anything was saved: the same command again.
            shutil.rmtree(out / "run", ignore_errors=True)
            result = train(load_config(overrides=[*RUN, f"out={out}"]), quiet)
        else:
            result = resume(out / "run", console=quiet)
        same = result.artifact.read_bytes() == expected
        outcomes[f"{'killed' if killed else 'ended before the kill'}, {'bit-identical' if same else 'DIFFERENT'}"] += 1
        shutil.rmtree(out)
    return {"times": times, "outcomes": dict(outcomes)}


def _train(out: Path) -> None:
    os.setsid()
    train(load_config(overrides=[*RUN, f"out={out}"]), Console(quiet=True))


def checkpoints(place: Path, chance: random.Random, times: int = 1000) -> dict[str, Any]:
    """A checkpoint and an artifact, cut or with a bit flipped at a random place, are read."""
    result = train(load_config(overrides=[*RUN, f"out={place}", "train.epochs=1"]), Console(quiet=True))
    outcomes: Counter[str] = Counter()
    for name in ("checkpoint.safetensors", "artifact.safetensors"):
        good = (result.folder / name).read_bytes()
        expected = _content(result.folder / name)
        bad = place / name
        for number in range(times // 2):
            if number % 2:
                damaged = good[: chance.randrange(len(good))]
            else:
                at = chance.randrange(len(good))
                damaged = good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :]
            bad.write_bytes(damaged)
            outcomes[f"{name}: {_read(bad, expected)}"] += 1
    return {"times": times, "outcomes": dict(outcomes)}


def _content(path: Path) -> tuple[dict[str, bytes], Any]:
    tensors, meta = read_tensors(path)
    return {key: value.numpy().tobytes() for key, value in tensors.items()}, meta


def _read(path: Path, expected: Any) -> str:
    try:
        return "the same state" if _content(path) == expected else "WRONG STATE"
    except UserError:
        return "a clean error"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}"


def disks(place: Path, chance: random.Random, times: int = 50) -> dict[str, Any]:
    """A run on a file system of a random size, where something finds it full; it grows, and the run goes on."""
    quiet = Console(quiet=True)
    whole = train(load_config(overrides=[*RUN, f"out={place / 'whole'}"]), quiet)
    expected, disk = whole.artifact.read_bytes(), place / "disk"
    size = sum(file.stat().st_size for file in whole.folder.rglob("*") if file.is_file()) // 1024
    outcomes: Counter[str] = Counter()
    disk.mkdir()
    for _ in range(times):
        mount(disk, chance.randrange(4, size))
        try:
            try:
                result = train(load_config(overrides=[*RUN, f"out={disk}"]), quiet)
                said = "there was room"
            except UserError as error:
                said = "one sentence" if "No space left on device" in str(error) else f"UNCLEAR {error}"
                subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
                if (disk / "run" / "config.yaml").is_file():
                    result = resume(disk / "run", console=quiet)
                else:
                    result = train(load_config(overrides=[*RUN, f"out={disk}"]), quiet)
            same = result.artifact.read_bytes() == expected
            outcomes[f"{said}, then {'bit-identical' if same else 'DIFFERENT'}"] += 1
        except Exception as error:
            outcomes[f"TRACEBACK {type(error).__name__}: {str(error)[:80]}"] += 1
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return {"times": times, "outcomes": dict(outcomes)}


def mount(folder: Path, kilobytes: int) -> None:
    """A file system of that size, in memory; only the superuser may make one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)


def pairs(place: Path, chance: random.Random, times: int = 50) -> dict[str, Any]:
    """A second process resumes a run at a random moment while the first one trains it, which is then killed."""
    quiet = Console(quiet=True)
    whole = train(load_config(overrides=[*RUN, f"out={place / 'whole'}"]), quiet)
    expected = whole.artifact.read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(times):
        out = place / str(number)
        process = multiprocessing.get_context("fork").Process(target=_train, args=(out,))
        process.start()
        while process.is_alive() and not (out / "run" / "checkpoint.safetensors").is_file():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        try:
            resume(out / "run", console=quiet)
            said = "NOT REFUSED" if process.is_alive() else "the first had ended"
        except UserError as error:
            said = "refused" if f"in use by process {process.pid}" in str(error) else f"UNCLEAR {error}"
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        same = resume(out / "run", console=quiet).artifact.read_bytes() == expected
        outcomes[f"{said}, then {'bit-identical' if same else 'DIFFERENT'}"] += 1
        shutil.rmtree(out)
    return {"times": times, "outcomes": dict(outcomes)}


def images(place: Path, chance: random.Random, times: int = 1000) -> dict[str, Any]:
    """Pictures of every format that Pillow reads and writes, mutated, are decoded."""
    del place
    Image.init()
    seeds = []
    for kind in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"):
            file = io.BytesIO()
            try:
                pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels)
                picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
                picture.save(file, kind)
            except Exception:  # the format does not take the mode
                continue
            seeds.append((kind, file.getvalue()))
    outcomes: Counter[str] = Counter()
    kinds = Counter(kind for kind, _ in seeds)
    for number in range(times):
        kind, content = seeds[number % len(seeds)]
        try:
            pixels = decode(_mutated(content, chance), 1_000_000, f"{kind} {number}")
            good = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes["a picture" if good else "WRONG FORM"] += 1
        except BadImage as error:
            outcomes["a clean error with its name" if f"{kind} {number}" in str(error) else "NAMELESS"] += 1
        except BaseException as error:
            outcomes[f"TRACEBACK {type(error).__name__} ({kind})"] += 1
    return {"times": times, "formats": len(kinds), "outcomes": dict(outcomes)}


def _mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 30))):
        if not data:
            break
        at = chance.randrange(len(data))
        what = chance.randrange(4)
        if what == 0:
            data[at] = chance.randrange(256)
        elif what == 1:
            del data[at : at + chance.randrange(1, 9)]
        elif what == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 and data else data)


def configs(place: Path, chance: random.Random, times: int = 1000) -> dict[str, Any]:
    """The shipped configurations with keys, values and text mutated are read."""
    texts = [file.read_text() for file in sorted((ROOT / "configs").glob("**/*.yaml")) if file.parent.name != "sweep"]
    texts.append(yaml.safe_dump(load_config().model_dump(mode="json")))
    outcomes: Counter[str] = Counter()
    for number in range(times):
        text = chance.choice(texts)
        text = _mutated_tree(text, chance) if number % 2 else _mutated(text.encode(), chance).decode("utf-8", "replace")
        file = place / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            load_config(file)
            outcomes["still valid"] += 1
        except UserError as error:
            lines = str(error).splitlines()
            clean = all(0 < len(line) < 500 and "Traceback" not in line for line in lines) and lines
            outcomes["a clean error" if clean else f"UNCLEAR {error}"] += 1
        except BaseException as error:
            outcomes[f"TRACEBACK {type(error).__name__}: {str(error)[:80]}"] += 1
    return {"times": times, "outcomes": dict(outcomes)}


def _mutated_tree(text: str, chance: random.Random) -> str:
    tree = yaml.safe_load(text)
    values: list[Any] = [
        None,
        -1,
        0,
        1e400,
        float("nan"),
        "",
        "x" * 300,
        [],
        [1, [2]],
        {},
        {"kind": "deep"},
        True,
        "../..",
        2**70,
    ]
    for _ in range(chance.choice((1, 1, 3))):
        node = tree
        while isinstance(node, dict) and node:
            key = chance.choice(list(node))
            if not isinstance(node[key], dict) or chance.random() < 0.3:
                what = chance.randrange(3)
                if what == 0:
                    node[key] = chance.choice(values)
                elif what == 1:
                    node[f"{key}{chance.choice('xyz')}"] = node.pop(key)
                else:
                    node[chance.choice(["seed", "kind", "lr", "tokens"])] = chance.choice(values)
                break
            node = node[key]
    return str(yaml.safe_dump(tree))


FAULTS: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {
    "configs": configs,
    "images": images,
    "checkpoints": checkpoints,
    "kills": kills,
    "disks": disks,
    "pairs": pairs,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
