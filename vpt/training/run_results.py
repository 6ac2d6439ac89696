"""Messages at the start of a run, and the files written at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpt.models.artifact import save_artifact
from vpt.models.base import Prompted
from vpt.training.batch_pictures import attempt, draw_predictions
from vpt.training.context import RunContext
from vpt.training.memory_estimate import estimate, total_parameters
from vpt.training.run_folder import TrainResult
from vpt.training.tasks.base import Metrics, Task
from vpt.utils import plotting
from vpt.utils.atomic_io import write_json
from vpt.utils.distributed import is_first, wait
from vpt.utils.resource_usage import device_name, resident_bytes

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer

OPTIMIZER_STATE = {"adamw": 2, "sgd": 1}  # values stored per trainable parameter


def introduce(task: Task[Any], model: Prompted, context: RunContext, folder: object) -> None:
    """Print model, device and estimated cost."""
    config, console = context.config, context.console

    def trial(count: int) -> torch.Tensor:
        return task.trial(model, count, context.device)

    budget = estimate(
        model,
        OPTIMIZER_STATE[config.train.optimizer.kind],
        context.pass_size,
        trial,
        context.autocast,
        resident_bytes() if context.device.type == "cpu" else 0,
    )
    console.say(
        f"model: {model.backbone.name} at {task.image_size(model, context)}, prompt {config.prompt.kind}, "
        f"tuning {config.tuning.kind}, head {config.head.kind}; {context.device}, {context.precision}"
    )
    if config.tuning.kind != "frozen" and config.prompt.kind != "none":
        console.say(
            f"tuning={config.tuning.kind} is trained together with {config.prompt.kind} prompts; without prompts: add "
            "prompt=none"
        )
    if text := task.advice(model, context):
        console.warn(text)
    for note in model.backbone.notes:
        console.warn(note)
    console.say(budget.text())
    console.say(f"run folder: {folder}")


def write_results(trainer: Trainer, folder: Path) -> TrainResult:
    """Evaluate the selected weights, and write artifact, metrics and plots."""
    context, model, task = trainer.context, trainer.model, trainer.task
    kept = trainer.state.kept
    chosen = kept.get("average") or kept.get("best")
    if chosen is not None:
        model.load_owned({name: value.to(context.device) for name, value in chosen.items()})
    summary = _summary(trainer)
    if chosen is not None and chosen is kept.get("best") and trainer.progress.best_epoch == 0:
        context.console.warn(
            "no epoch is better on validation than the linear probe (epoch 0); the artifact contains the probe, "
            "without token prompts"
        )
        model, context = task.untrained(model, context)
    task.finish(model, context)
    measured = {
        split: task.measure(model, context, records, split, folder if is_first() else None)
        for split in ("val", "test")
        if (records := context.data.split(split))
    }
    summary |= measured
    if is_first():
        summary["artifact_bytes"] = _write(trainer, model, context, summary, measured, folder)
    wait()
    return TrainResult(folder, folder / "artifact.safetensors", summary)


def _summary(trainer: Trainer) -> dict[str, Any]:
    """Content of metrics.json besides the metrics."""
    context, model, progress = trainer.context, trainer.model, trainer.progress
    trainable = sum(parameter.numel() for _, _, parameter in model.trainable())
    return {
        "best_epoch": progress.best_epoch,
        "probe": progress.probe,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "peak_bytes": progress.peak_bytes,
        "joules": progress.joules,
        "device": device_name(context.device),
        "precision": context.precision,
        "parameters": {"learning": trainable, "total": total_parameters(model)},
        "backbone": model.backbone.name,
        "prompt": context.config.prompt.kind,
        "tuning": context.config.tuning.kind,
        "head": context.config.head.kind,
        "data": context.data.summary(),
    }


def _draw_prompt(model: Prompted, path: Path) -> None:
    from vpt.prompts.pixel.to_image import prompt_picture

    prompt: Any = model.prompt
    plotting.picture_png(prompt_picture(prompt), path)


def _write(
    trainer: Trainer,
    model: Prompted,
    context: RunContext,
    summary: dict[str, Any],
    measured: Mapping[str, Metrics],
    folder: Path,
) -> int:
    """Write artifact, metrics and plots, and print a summary. Returns the size of the artifact in bytes."""
    progress = trainer.progress
    config, data, console, metric = context.config, context.data, context.console, trainer.metric
    numbers = {
        split: {key: value for key, value in found.items() if isinstance(value, float)}
        for split, found in measured.items()
    }
    recorded = config.with_({"train.precision": context.precision})  # inference uses it where it is native
    artifact = save_artifact(
        folder / "artifact.safetensors", model, recorded, data.classes, data.multilabel, metrics=numbers
    )
    size = artifact.stat().st_size
    curves = folder / "curves.png"
    attempt(console, curves.name, lambda: plotting.curves_png(progress.history, curves, metric, progress.probe))
    if config.prompt.kind == "pixel":
        attempt(console, "prompt.png", lambda: _draw_prompt(model, folder / "prompt.png"))
    attempt(console, "a plot of the results", lambda: trainer.task.plots(model, context, measured, folder))
    attempt(console, "the picture of predictions", lambda: draw_predictions(trainer.task, context, measured, folder))
    # Written last: if it exists, the run has finished.
    write_json(folder / "metrics.json", {**summary, "artifact_bytes": size})
    trainer.log.row("end", step=progress.step, **numbers)
    for split, found in numbers.items():
        if metric not in found:
            console.say(f"{split}: no {metric}, because there is nothing to measure: no labelled box or pixel")
            continue
        loss = f", loss {found['loss']:.4f}" if "loss" in found else ""
        console.say(f"{split}: {metric} {found[metric]:.4f}{loss}")
    console.say(f"artifact: {artifact} ({size / 1e6:.2f} MB), trained in {progress.seconds:.0f} s")
    return size
