"""Writes what tests/project/test_compat.py reads: artifacts, run folders, stopped runs and exports of the code at hand.

    python tests/compat/make.py tests/compat/0.1
    python tests/compat/make.py tests/compat/0.1-masks masks-linear small-threshold ...

The second form writes only artifacts, of the named cases. Run it once with the code of a version that users have,
commit the folder, and never write it again: later code has to read it with the same scores.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import vpt
from tests.compat.backbones import register
from tests.compat.cases import CASES, STOPPED, pictures, settings, write_images
from vpt.inference.segmentation import Segmentation
from vpt.training.trainer import Trainer
from vpt.utils.console import Console

TASKS = ("small-deep-shared", "small-deep-drop", "small-vfpt", "small-cvpt", "small-vapt", "small-several-labels")
EXPORTED = "small-pad"
IGNORED = shutil.ignore_patterns("tensorboard", "*.png")


def machine() -> dict[str, str]:
    """What bits of scores depend on beside the code."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
    return {
        "torch": torch.__version__,
        "cpu": names[0] if names else "unknown",
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def answers(results: list[Any]) -> list[Any]:
    """Results as JSON: of a classification its scores by class, and its decision if it is by a threshold or may be that
    the image is unknown; of detections labels, scores and boxes; of masks the pixels and the score of each class."""
    plain = []
    for found in results:
        if isinstance(found, vpt.Classification):
            scores = dict(sorted(zip(found.labels, map(float, found.scores), strict=True)))
            decided = {"labels": list(found.holding), "unsure": list(found.unsure), "unknown": found.unknown_score}
            plain.append(scores if found.decided is found.unknown_score is None else {"scores": scores, **decided})
        elif isinstance(found, Segmentation):
            plain.append(
                {name: [found.areas.get(name, 0), float(score)] for name, score in zip(found.classes, found.scores)}
            )
        else:
            boxes = np.asarray(found.boxes_xyxy, dtype=np.float64).reshape(-1, 4).tolist()
            scores = np.asarray(found.scores, dtype=np.float64).tolist()
            plain.append([list(found.labels), scores, boxes])
    return plain


class _Stop(Exception):
    pass


def main(target: Path, only: list[str]) -> None:
    """Write everything, or only the artifacts of some cases, into a folder that does not exist yet."""
    torch.set_num_threads(1)
    target.mkdir(parents=True)
    told: dict[str, Any] = {"machine": machine(), "vpt": vpt.__version__, "scores": {}}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        weights, images = register(work), write_images(work / "images")
        for case in only or CASES:
            print(case, flush=True)
            words = [*settings(case, images, weights), f"out={work / 'runs'}", f"name={case}"]
            config = vpt.load_config(overrides=words)
            if case in STOPPED:
                _stop(config, work / "runs" / case, target / "stopped" / case)
            result = vpt.train(config, Console(quiet=True))
            (target / "artifacts").mkdir(exist_ok=True)
            shutil.copy(result.artifact, target / "artifacts" / f"{case}.safetensors")
            found = vpt.load(result.artifact, weights=weights if "clip" in " ".join(words) else None)
            told["scores"][case] = answers(found.predict(pictures(), top=100))
        if not only:
            shutil.copytree(work / "runs" / "nano-deep", target / "run", ignore=IGNORED)
            told["onnx"] = _export(target)
            bank = vpt.Bank()
            for case in TASKS:
                bank.add(case, target / "artifacts" / f"{case}.safetensors")
            several = [picture for picture in pictures() for _ in TASKS]
            told["bank"] = answers(bank.predict(several, list(TASKS) * len(pictures()), top=100))
    (target / "expected.json").write_text(json.dumps(told, indent=1))


def _export(target: Path) -> list[list[float]]:
    """The artifact as an ONNX file, and what that answers to square images."""
    from vpt.cli.main import main as command

    file = target / f"{EXPORTED}.onnx"
    artifact = target / "artifacts" / f"{EXPORTED}.safetensors"
    assert command(["export", str(artifact), "--size", "32x32", "--output", str(file)]) == 0
    return run_onnx(file)


def run_onnx(file: Path) -> list[list[float]]:
    """Answers of an exported classifier to the middle 28 pixels of every image, enlarged to 32."""
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    squares = [np.asarray(Image.fromarray(each[:28, :28]).resize((32, 32))) for each in pictures()]
    return session.run(None, {session.get_inputs()[0].name: np.stack(squares)})[0].tolist()


def _stop(config: vpt.RunConfig, folder: Path, target: Path) -> None:
    """The same run, stopped after its first epoch as a kill would stop it."""
    usual = Trainer.end_epoch

    def last(trainer: Trainer) -> None:
        if trainer.progress.epoch == 1:
            raise _Stop
        usual(trainer)

    Trainer.end_epoch = last  # type: ignore[method-assign]
    try:
        vpt.train(config, Console(quiet=True))
    except _Stop:
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(folder, target, ignore=IGNORED)
    finally:
        Trainer.end_epoch = usual  # type: ignore[method-assign]
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
