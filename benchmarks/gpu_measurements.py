"""What benchmarks/gpu_session.py measures, in order of worth. Programs are imported by the process that needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks.gpu_run import Measurement, Run

ROOT = Path(__file__).resolve().parent.parent
BASE, LARGE, SMALLEST = "vit_base_patch16_224", "vit_large_patch16_224", "test_vit"
QUICK = ["--models", SMALLEST, "--tokens", "3", "--batch", "2", "--rounds", "1", "--no-startup", "--joules-s", "0"]
# Each graph reserves its memory: of ViT-L/16 only so many fit side by side.
COMPARED = ["--variants", "plain backbone", "concatenation", "vpt", "lora", "full"]
MEASURED = ["--precision", "bf16", "--no-startup", "--joules-s", "0.2"]


def cuda_tests(run: Run) -> dict[str, Any]:
    """tests/project/test_cuda.py; without a GPU all of it is skipped."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.xml")
        command = [sys.executable, "-m", "pytest", "tests/project/test_cuda.py", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, capture_output=True, text=True)
        if not report.is_file():
            raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return summary(report)


def summary(report: Path) -> dict[str, Any]:
    """Counts of a JUnit report, and the first line of every failure."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = {}
    for case in cases:
        found = [part for kind in ("failure", "error") for part in case.findall(kind)]
        if found:
            failed[case.get("name")] = (found[0].get("message") or "").strip().split("\n")[0][:300]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": len(failed), "skipped": skipped, "failures": failed}


def vtab(run: Run, *more: str) -> None:
    from benchmarks.speed.vtab_run import main

    tiny = ["--model", "vpt_nano", "--images", "12", "--epochs", "1", "--tokens", "3", "--batch", "4"]
    main([*run.words([], tiny), *more, *(["data.workers=0"] if run.tiny else [])])


def vtab_outside(run: Run) -> None:
    """Three epochs: what a run does besides training does not depend on their number."""
    vtab(run, "--profile", *([] if run.tiny else ["--epochs", "3"]))


def steps(run: Run, full: list[str], tiny: list[str]) -> None:
    from benchmarks.speed.steps import main

    main(run.words([*MEASURED, *full], [*QUICK, *tiny]))


def steps_base(run: Run) -> None:
    words = ["--models", BASE, "--tokens", "50", "200", "--batch", "64", "1", "--mode", "graphs", *COMPARED]
    steps(run, words, ["--precision", "fp32", "--mode", "graphs"])


def steps_large(run: Run) -> None:
    words = ["--models", LARGE, "--tokens", "50", "200", "--batch", "64", "1", "--mode", "graphs", *COMPARED]
    steps(run, words, ["--precision", "bf16", "--mode", "eager"])


def steps_compiled(run: Run) -> None:
    chosen = ["--variants", "plain backbone", "vpt"]
    words = ["--models", BASE, LARGE, "--tokens", "50", "--batch", "128", "--mode", "compiled", *chosen]
    steps(run, words, ["--precision", "fp32", "--mode", "eager", *chosen])  # compiling takes minutes on a CPU


def released(run: Run) -> None:
    """In fp32, as it was released, against the same precision here; "graphs" is what a run here does."""
    from benchmarks.speed.steps import main

    chosen = ["--precision", "fp32", "--mode", "graphs", "--parts", "training"]
    chosen += ["--variants", "released form", "concatenation", "vpt"]
    full = ["--models", BASE, "--tokens", "50", "--batch", "64", "--no-startup", "--joules-s", "0.2"]
    main(run.words([*full, *chosen], [*QUICK, *chosen]))


def partial_depth(run: Run) -> None:
    chosen = ["--mode", "graphs", "--variants", "vpt", "last quarter", "last quarter, cached"]
    steps(run, ["--models", BASE, "--tokens", "50", "--batch", "64", *chosen], ["--precision", "fp32", *chosen])


def task_step(run: Run, task: str) -> None:
    from benchmarks.speed.task_step import main

    quick = ["--backbone", SMALLEST, "--tokens", "3", "--batch", "1", "--rounds", "1", "--precision", "fp32"]
    main([*run.words([], quick), "--task", task])


def sharded(run: Run) -> None:
    from benchmarks.speed.sharded import main

    full = ["--models", LARGE, "--tokens", "50", "--batch", "64", *MEASURED]
    main(run.words(full, [*QUICK, "--precision", "fp32"]))


def saved_weights(run: Run, name: str) -> Path:
    """Random weights of a backbone as a file next to the results, for artifacts that load it again."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = Path(tempfile.mkdtemp()) / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), file)
    return file


def bank(run: Run) -> dict[str, Any]:
    """64 tasks in batches of 64 and of 512."""
    from benchmarks.speed.bank import main

    name = SMALLEST if run.tiny else BASE
    full = ["--tasks", "64", "--own", "4", "--rounds", "5"]
    words = ["--backbone", name, "--weights", str(saved_weights(run, name))]
    found = {}
    for batch in (4, 6) if run.tiny else (64, 512):
        quick = ["--tasks", "4", "--own", "2", "--rounds", "1", "--tokens", "2", "3"]
        main([*run.words(full, quick), *words, "--batch", str(batch)])
        found[str(batch)] = json.loads(run.part.read_text(encoding="utf-8"))
    return found


def serve(run: Run) -> None:
    from benchmarks.speed.server_load import main

    if run.tiny:
        main(run.words([], ["--tasks", "2", "--clients", "2", "--seconds", "1", "--tokens", "2", "3"]))
        return
    words = ["--backbone", BASE, "--weights", str(saved_weights(run, BASE)), "--tasks", "8", "--clients", "64"]
    main(run.words([*words, "--seconds", "10"], []))


def candidates(run: Run) -> None:
    from benchmarks.speed.candidates import main

    quick = ["--image-tokens", "17", "--heads", "2", "--width", "32", "--tokens", "5", "--batch", "2"]
    main(run.words([], [*quick, "--rounds", "1", "--no-compile"]))


def accuracy(run: Run) -> dict[str, Any]:
    """The suite's plan `shipped`; without the packed photos (accuracy/suite/pack.py) only its drawn tasks."""
    folder = run.part.parent
    ends = ["--seconds", str(max(10, run.seconds - 30))]
    quick = ["--mini", "--workers", "1", "--pool", "1"] if run.tiny else []
    command = [sys.executable, "-m", "benchmarks.accuracy.suite.gpu", "shipped", str(folder), "--available"]
    with tempfile.TemporaryDirectory() as place:
        environment = {"SUITE_SCRATCH": place, **os.environ}
        done = subprocess.run([*command, *ends, *quick], cwd=ROOT, env=environment, capture_output=True, text=True)
    file = folder / "shipped.jsonl"
    if done.returncode or not file.is_file():
        raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    runs = [row for row in rows if row["method"] != "probe"]
    if any(word in done.stdout for word in ("time is up", "skipped", "failed")) or not runs:
        return {"not_measured": f"{len(runs)} runs are done and kept in {file.name}; more are missing"}
    return {"rows": file.name, "runs": len(runs), "tasks": sorted({row["task"] for row in runs})}


MEASUREMENTS = [
    Measurement("cuda-tests", 100, "tests/project/test_cuda.py", cuda_tests),
    Measurement("vtab", 75, "a run of the size of a VTAB-1k task, end to end", vtab),
    Measurement("vtab-outside", 35, "where such a run spends its time outside training", vtab_outside),
    Measurement("steps-base", 75, "steps of ViT-B/16, 50 and 200 tokens, batch 64 and 1", steps_base),
    Measurement("released", 30, "a training step in KMnP's released form, fp32", released),
    Measurement("steps-compiled", 80, "compiled training steps of ViT-B/16 and ViT-L/16, batch 128", steps_compiled),
    Measurement("detection", 30, "a training step of a detector", lambda run: task_step(run, "detection")),
    Measurement("segmentation", 30, "a training step of a segmenter", lambda run: task_step(run, "segmentation")),
    Measurement("sharded", 40, "a training step of ViT-L/16 sharded in one process", sharded),
    Measurement("bank", 60, "a bank of 64 tasks, batch 64 and 512", bank),
    Measurement("serve", 60, "`vpt serve` under load, 8 tasks on ViT-B/16", serve),
    Measurement("partial-depth", 25, "prompts in the last quarter of ViT-B/16, the layers below cached", partial_depth),
    Measurement("steps-large", 100, "steps of ViT-L/16, 50 and 200 tokens, batch 64 and 1", steps_large),
    Measurement("candidates", 40, "kernels that might replace parts of the forward pass", candidates),
    Measurement("accuracy", 90, "the accuracy suite's plan `shipped`", accuracy, takes_the_rest=True),
]
