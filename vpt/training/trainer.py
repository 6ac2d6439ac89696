"""A run: from a configuration to a folder with the artifact, its metrics and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vpt.backbones.backbone import Backbone
from vpt.config import RunConfig, load_config, read_yaml
from vpt.data.dataset import SPLITS
from vpt.metrics.comparison import comparison_png, method_name, say_comparison
from vpt.metrics.predictions import read_answers
from vpt.models.artifact import save_artifact
from vpt.models.base import Prompted
from vpt.models.header import CHECKPOINT
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.pixel.to_image import prompt_picture
from vpt.training.checkpoint import STRANGE, Progress, TrainState, load_checkpoint, save_checkpoint
from vpt.training.context import Setting, prepare
from vpt.training.loop import Steps, alone
from vpt.training.memory_estimate import estimate, total_parameters
from vpt.training.optimizer import build_optimizer
from vpt.training.parallelize import arrange
from vpt.training.rounds import rounds, train_model
from vpt.training.run_folder import (
    TrainResult,
    claim,
    identity,
    refuse_taken,
    remove_leftovers,
    upgraded,
    write_config,
)
from vpt.training.tasks import task_of
from vpt.utils import plotting
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.distributed import first_goes_ahead, is_first, joined, told, wait
from vpt.utils.errors import FileError, UserError, WriteError
from vpt.utils.folder_lock import LockedFolder, lock_folder
from vpt.utils.resource_usage import device_name
from vpt.utils.run_log import RunLog, open_log


@dataclass(frozen=True)
class Ready:
    """A run in which nothing is wrong and of which nothing is written yet.

    Args:
        setting: what `prepare` made.
        state: model, optimiser and progress; at the start, or where a checkpoint left it.
        stands_on: which settings, data and backbone that belongs to.
        fresh: it is at the start.
    """

    setting: Setting
    state: TrainState
    stands_on: Mapping[str, Any]
    fresh: bool


def train(config: RunConfig, console: Console | None = None) -> TrainResult:
    """Train what `config` describes into a new run folder, then the prompts it is to be compared with.

    Raises:
        UserError: any mistake in configuration, data or backbone, before training starts; a loss that diverges.
    """
    with joined():
        console = console or Console(quiet=not is_first())
        if is_first():
            refuse_taken(config)
        compared = _compared(config)
        with first_goes_ahead():
            setting = prepare(config, task_of(config).load, console)
        others = [_beside(setting, other) for other in compared]
        for other in others:
            model_of(other)  # what is wrong with it is told now, not after the first training
        ready = get_ready(setting)
        folder = Path(told(str(claim(setting.config)) if is_first() else ""))
        with lock_folder(folder) as locked, _resumable(folder):
            result = alone(training(ready, locked))
            return _compare(setting, result, [_train_alone(other, _sibling(folder, other)) for other in others])


def resume(run: str | Path, overrides: Sequence[str] = (), console: Console | None = None) -> TrainResult:
    """Go on with an interrupted run; the result is bit for bit that of a run never interrupted, on a CPU.

    Raises:
        UserError: no run there, one that another process is training, a damaged checkpoint, or settings, data or
            backbone that changed since.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder; it has no config.yaml")
    if (folder / "metrics.json").exists() and not (folder / CHECKPOINT).is_file():
        raise UserError(f"{folder} is finished and has no checkpoint to resume from")
    config = load_config(base=upgraded(read_yaml(folder / "config.yaml")), overrides=overrides)
    compared = _compared(config)
    with lock_folder(folder) as locked, _resumable(folder), joined():
        if is_first():
            remove_leftovers(folder)
        console = console or Console(quiet=not is_first())
        with first_goes_ahead():
            setting = prepare(config, task_of(config).load, console)
        result = alone(training(get_ready(setting, folder), locked))
        others = [_beside(setting, each) for each in compared]
        return _compare(setting, result, [_train_alone(other, _sibling(folder, other)) for other in others])


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say how a run goes on that ended because something could not be written."""
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error}; then go on with: vpt train resume={folder}") from error


def _train_alone(setting: Setting, folder: Path) -> TrainResult:
    """Train in a folder of its own, from the checkpoint there if there is one."""
    with lock_folder(folder) as locked:
        return alone(training(get_ready(setting, folder), locked))


def get_ready(setting: Setting, folder: Path | None = None, backbone: Backbone | None = None) -> Ready:
    """Build what a run trains. Whatever is wrong is told here, before anything is written.

    Args:
        setting: what `prepare` made.
        folder: goes on from the checkpoint there, if there is one; default: from the start.
        backbone: one that is loaded already and shared; default: one of its own.

    Raises:
        UserError: a backbone, prompt, head or training that cannot be made of these settings and data; a checkpoint
            that is damaged or belongs to others.
    """
    config, data = setting.config, setting.data
    model = model_of(setting, backbone)
    arrange(model, config.train, setting.device, setting.precision)
    optimizer = build_optimizer(model, config.train.optimizer)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
    state = TrainState(model, optimizer, scaler, Progress())
    stands_on = {
        "settings": identity(config),
        "data": data.fingerprint(),
        "pixels": data.pixels,
        "backbone": model.backbone.fingerprint,
    }
    checkpoint = folder / CHECKPOINT if folder is not None else None
    fresh = checkpoint is None or not checkpoint.is_file()
    wait()  # before the first of several processes writes one
    if fresh:
        task_of(config).begin(model, setting)
        if rounds(config.prompt) > 1:
            state.start = {name: value.clone() for name, value in model.owned_state().items()}
    else:
        assert checkpoint is not None
        images = [record for split in SPLITS for record in data.split(split)]
        load_checkpoint(checkpoint, state, stands_on, images)
        progress = state.progress
        last = progress.round + 1 == rounds(config.prompt)
        if progress.round >= rounds(config.prompt) or (not last and state.start is None):
            raise FileError(checkpoint, f"{STRANGE}: see its header's progress.round")
        setting.console.say(f"resuming {folder} at epoch {progress.epoch + 1}, step {progress.step}")
    return Ready(setting, state, stands_on, fresh)


def model_of(setting: Setting, backbone: Backbone | None = None) -> Prompted:
    """The model of a run, which can be trained.

    Args:
        setting: what `prepare` made.
        backbone: one that is loaded already and shared; default: one of its own.

    Raises:
        UserError: a backbone, prompt, head, augmentation or loss that cannot be made of these settings and data.
    """
    task = task_of(setting.config)
    model = task.build(setting.config, setting.data.classes, backbone)
    if not task.learns(model):
        raise UserError(
            "nothing learns in this run: no prompt, a frozen backbone and a fixed label mapping; add a prompt"
        )
    task.check(model, setting)
    return model


def training(ready: Ready, locked: LockedFolder) -> Steps[TrainResult]:
    """A whole training as a generator that asks for its steps; `alone` takes them, or vpt/training/multi_run.py.

    Args:
        ready: the run.
        locked: its folder.
    """
    setting, state, folder = ready.setting, ready.state, locked.folder

    def save() -> None:
        if is_first():
            locked.check()
            save_checkpoint(folder / CHECKPOINT, state, ready.stands_on)

    if ready.fresh:
        if is_first():
            write_config(folder, setting.config)
        save()
    with open_log(folder, None if ready.fresh else state.progress.step, write=is_first()) as log:
        setting.console.attach(log)
        try:
            _introduce(setting, state.model, folder)
            with torch.random.fork_rng():
                yield from train_model(state, setting, task_of(setting.config), log, save)
            locked.check()
            return _conclude(state, setting, folder, log)
        finally:
            setting.console.attach(None)


def _introduce(setting: Setting, model: Prompted, folder: Path) -> None:
    config, console = setting.config, setting.console
    slots = {"adamw": 2, "sgd": 1}[config.train.optimizer.kind]
    task = task_of(config)

    def trial(count: int) -> torch.Tensor:
        return task.trial(model, count, setting.device)

    budget = estimate(model, slots, setting.pass_size, trial, setting.autocast)
    pre = model.backbone.preprocess
    console.say(
        f"model: {model.backbone.name} at {pre.size} px, prompt {config.prompt.kind}, "
        f"tuning {config.tuning.kind}, head {config.head.kind}; {setting.device}, {setting.precision}"
    )
    for note in model.backbone.notes:
        console.warn(note)
    console.say(budget.text())
    console.say(f"run folder: {folder}")


def _conclude(state: TrainState, setting: Setting, folder: Path, log: RunLog) -> TrainResult:
    """Measure the weights that are kept, and write down what the run has come to."""
    model, task = state.model, task_of(setting.config)
    chosen = state.average or state.best
    if chosen is not None:
        model.load_owned({name: value.to(setting.device) for name, value in chosen.items()})
    task.finish(model, setting)
    measured = {
        split: task.measure(model, setting, records, split, folder if is_first() else None)
        for split in ("val", "test")
        if (records := setting.data.split(split))
    }
    summary = _summary(state, setting) | measured
    if is_first():
        summary["artifact_bytes"] = _write(state, setting, summary, measured, folder, log)
    wait()
    return TrainResult(folder, folder / "artifact.safetensors", summary)


def _summary(state: TrainState, setting: Setting) -> dict[str, Any]:
    """What metrics.json tells beside the metrics."""
    config, model, progress = setting.config, state.model, state.progress
    learning = sum(parameter.numel() for _, _, parameter in model.trainable())
    return {
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "peak_bytes": progress.peak_bytes,
        "joules": progress.joules,
        "device": device_name(setting.device),
        "precision": setting.precision,
        "parameters": {"learning": learning, "total": total_parameters(model)},
        "backbone": model.backbone.name,
        "prompt": config.prompt.kind,
        "tuning": config.tuning.kind,
        "head": config.head.kind,
        "data": setting.data.summary(),
    }


def _write(
    state: TrainState,
    setting: Setting,
    summary: dict[str, Any],
    measured: dict[str, dict[str, Any]],
    folder: Path,
    log: RunLog,
) -> int:
    """Write artifact, metrics and pictures, and say what they hold. Returns the artifact's bytes."""
    config, data, model, console = setting.config, setting.data, state.model, setting.console
    task = task_of(config)
    metric = task.metric(data)
    numbers = {
        split: {key: value for key, value in found.items() if isinstance(value, float)}
        for split, found in measured.items()
    }
    artifact = save_artifact(
        folder / "artifact.safetensors", model, config, data.classes, data.multilabel, metrics=numbers
    )
    size = artifact.stat().st_size
    plotting.curves_png(state.progress.history, folder / "curves.png", metric=metric)
    if isinstance(model.prompt, PixelPrompts):
        plotting.picture_png(prompt_picture(model.prompt), folder / "prompt.png")
    task.pictures(model, setting, measured, folder)
    # Last of the files: where it stands the run has finished.
    write_json(folder / "metrics.json", {**summary, "artifact_bytes": size})
    log.row("end", step=state.progress.step, **numbers)
    for split, found in numbers.items():
        loss = f", loss {found['loss']:.4f}" if "loss" in found else ""
        console.say(f"{split}: {metric} {found[metric]:.4f}{loss}")
    console.say(f"artifact: {artifact} ({size / 1e6:.2f} MB), trained in {state.progress.seconds:.0f} s")
    return size


def _compared(config: RunConfig) -> list[RunConfig]:
    """The same run with each of the prompts it is to be compared with."""
    tree = config.model_dump(mode="json")
    return [load_config(base=tree, overrides=[f"prompt.kind={kind}", "compare=[]"]) for kind in config.compare]


def _beside(setting: Setting, other: RunConfig) -> Setting:
    """The setting of a compared run: that of the first, with what was decided of its training and data."""
    return replace(
        setting, config=other.model_copy(update={"train": setting.config.train, "data": setting.config.data})
    )


def _sibling(folder: Path, other: Setting) -> Path:
    return folder / f"compare-{other.config.prompt.kind}"


def _compare(setting: Setting, result: TrainResult, others: Sequence[TrainResult]) -> TrainResult:
    """Say and draw how a run compares with the others; returns it."""
    if not others or not is_first():
        return result
    results = [result, *others]
    say_comparison(setting.console, [each.metrics for each in results])
    split = "test" if setting.data.test else "val"
    files = {method_name(each.metrics): each.folder / f"predictions-{split}.csv" for each in results}
    if all(file.is_file() for file in files.values()):
        answers = {name: read_answers(file) for name, file in files.items()}
        path = result.folder / "comparison.png"
        comparison_png(answers, setting.data.split(split), setting.config.data.max_pixels, path)
        setting.console.say(f"picture: {path}")
    return result
