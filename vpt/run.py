"""A run: from a configuration to a folder with the artifact, its metrics and its pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from vpt import plots
from vpt.artifact import read_artifact, save_artifact
from vpt.backbones.backbone import Backbone
from vpt.budget import estimate, total_parameters
from vpt.clip import templates_of
from vpt.comparison import comparison_png, method_name, say_comparison
from vpt.config import RunConfig, TipHead, ZeroShotHead, load_config, read_yaml
from vpt.console import Console
from vpt.data.records import LabelledData, Record
from vpt.device import pick_device, pick_precision
from vpt.distributed import first_goes_ahead, is_first, joined, told, wait
from vpt.errors import UserError
from vpt.files import write_json, write_text
from vpt.fitting import rounds, train_model
from vpt.heads.zeroshot import ZeroShot
from vpt.loading import load_model
from vpt.predictions import read_answers
from vpt.prompted import Prompted
from vpt.prompts.picture import prompt_picture
from vpt.prompts.pixels import PixelPrompts
from vpt.runlog import RunLog, open_log
from vpt.setting import Setting, checked, prepare
from vpt.tasks import task_of
from vpt.training.arrange import arrange
from vpt.training.checkpoint import Progress, TrainState, load_checkpoint, save_checkpoint
from vpt.training.loop import Steps, alone
from vpt.training.optim import build_optimizer
from vpt.usage import device_name

# Settings that change how a run is computed but not what comes out; a resumed run may change them.
FREE_AT_RESUME = {
    "data": {"workers", "cache", "root"},
    "train": {"device", "checkpoint_minutes", "recompute", "shard", "compile"},
}


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, its artifact, and what metrics.json holds."""

    folder: Path
    artifact: Path
    metrics: dict[str, Any]


def finished(folder: Path) -> TrainResult | None:
    """The run that finished in a folder, if one did.

    >>> finished(Path("no/such/run")) is None
    True
    """
    file = folder / "metrics.json"
    if not file.is_file():
        return None
    return TrainResult(folder, folder / "artifact.safetensors", json.loads(file.read_text(encoding="utf-8")))


def train(config: RunConfig, console: Console | None = None) -> TrainResult:
    """Train what `config` describes into a new run folder, then the prompts it is to be compared with.

    Raises:
        UserError: any mistake in configuration, data or backbone, before training starts; a loss that diverges.
    """
    with joined():
        console = console or Console(quiet=not is_first())
        folder = Path(told(str(run_folder(config)) if is_first() else ""))
        with first_goes_ahead():
            setting = prepare(config, task_of(config).load, console)
        config = setting.config
        result = alone(training(setting, folder))
        others = [
            alone(training(replace(setting, config=_with_prompt(config, kind)), _sibling(folder, kind)))
            for kind in config.compare
        ]
        _compare(setting, [result, *others])
        return result


def resume(run: str | Path, overrides: Sequence[str] = (), console: Console | None = None) -> TrainResult:
    """Go on with an interrupted run; the result is bit for bit that of a run never interrupted, on a CPU.

    Raises:
        UserError: no run there, a damaged checkpoint, or settings, data or backbone that changed since.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder; it has no config.yaml")
    config = load_config(base=read_yaml(folder / "config.yaml"), overrides=overrides)
    with joined():
        console = console or Console(quiet=not is_first())
        with first_goes_ahead():
            setting = prepare(config, task_of(config).load, console)
        config = setting.config
        result = alone(training(setting, folder, fresh=False))
        others = []
        for kind in config.compare:
            sibling = _sibling(folder, kind)
            started = (sibling / "checkpoint.safetensors").is_file()
            wait()
            other = replace(setting, config=_with_prompt(config, kind))
            others.append(alone(training(other, sibling, fresh=not started)))
        _compare(setting, [result, *others])
        return result


def evaluate(
    artifact: str | Path,
    split: str = "test",
    overrides: Sequence[str] = (),
    console: Console | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Metrics of an artifact on a split of its own data, or of other data given as `data.path=...`.

    Raises:
        UserError: no such artifact, backbone, data or split; classes that the artifact does not know.
    """
    console = console or Console()
    stored = read_artifact(artifact)
    config = load_config(base=stored.config.model_dump(mode="json"), overrides=overrides)
    backbone = None if config.backbone.name == stored.config.backbone.name else config.backbone.name
    other_weights = weights or (config.backbone.weights if config.backbone != stored.config.backbone else None)
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    data, records = _split_of(config, split, console)
    takes_names = isinstance(stored.config.head, ZeroShotHead) and data.classes != stored.classes
    if not takes_names:
        data = _in_order_of(data, stored.classes, config.data.path)
        records = data.split(split)
    model, _ = load_model(artifact, str(device), other_weights, backbone)
    if takes_names:
        assert isinstance(model.head, ZeroShot)
        model.head.set_names(data.classes, templates_of(config))
    setting = Setting(config, data, device, precision, console)
    return task_of(config).measure(model, setting, records, split)


def evaluate_untrained(config: RunConfig, split: str = "test", console: Console | None = None) -> dict[str, Any]:
    """Metrics of what needs no training: a zero-shot head, or one that is made from the training images alone.

    Raises:
        UserError: settings under which something would have to learn.
    """
    console = console or Console()
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    task = task_of(config)
    data, records = _split_of(config, split, console)
    model = task.build(config, data.classes).to(device)
    learning = sorted({role for _, role, _ in model.trainable()})
    if learning:
        raise UserError(
            f"these settings need training ({', '.join(learning)}); use vpt train, or set head=zeroshot prompt=none, "
            "or name a run to evaluate"
        )
    setting = Setting(config, data, device, precision, console)
    task.begin(model, setting)
    task.finish(model, setting)
    return task.measure(model, setting, records, split)


def _split_of(config: RunConfig, split: str, console: Console) -> tuple[LabelledData, tuple[Record, ...]]:
    data = task_of(config).load(config)
    if not data.split(split):
        raise UserError(f"{config.data.path} has no {split} split; use split=val or give data.{split}=FOLDER")
    if isinstance(config.head, TipHead):
        data = checked(data, config, console)  # its cache is made of training images
        return data, data.split(split)
    good = checked(_only(data, split), config, console)
    return good, good.split(split)


def _only(data: LabelledData, split: str) -> LabelledData:
    train, val, test = (data.split(name) if name == split else () for name in ("train", "val", "test"))
    return replace(data, train=train, val=val, test=test)


def _in_order_of(data: LabelledData, classes: tuple[str, ...], path: str) -> LabelledData:
    """Labels as the artifact counts them: a data set seen alone may lack classes or know them in another order."""
    unknown = sorted(set(data.classes) - set(classes))
    if unknown:
        raise UserError(f"{path} has classes the artifact was not trained on: {', '.join(unknown[:5])}")
    place = [classes.index(name) for name in data.classes]

    def moved(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(replace(record, labels=tuple(place[label] for label in record.labels)) for record in records)

    return replace(data, classes=classes, train=moved(data.train), val=moved(data.val), test=moved(data.test))


def training(
    setting: Setting, folder: Path, fresh: bool = True, backbone: Backbone | None = None
) -> Steps[TrainResult]:
    """A whole training as a generator that asks for its steps; `alone` takes them, or vpt/together.py.

    Args:
        setting: what `prepare` made.
        folder: the run folder.
        fresh: begin anew instead of going on.
        backbone: one that is loaded already and shared; default: one of its own.
    """
    config, data, console = setting.config, setting.data, setting.console
    task = task_of(config)
    model = task.build(config, data.classes, backbone)
    arrange(model, config.train, setting.device)
    if not task.learns(model):
        raise UserError(
            "nothing learns in this run: no prompt, a frozen backbone and a fixed label mapping; add a prompt"
        )
    optimizer = build_optimizer(model, config.train.optimizer)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
    state = TrainState(model, optimizer, scaler, Progress())
    checkpoint = folder / "checkpoint.safetensors"
    stands_on = {
        "settings": identity(config),
        "data": data.fingerprint(),
        "backbone": model.backbone.fingerprint,
    }

    def save() -> None:
        if is_first():
            save_checkpoint(checkpoint, state, stands_on)

    if fresh or not checkpoint.is_file():
        if not fresh and (folder / "metrics.json").exists():
            raise UserError(f"{folder} is finished and has no checkpoint to resume from")
        if is_first():
            _create(folder, config)
        task.begin(model, setting)
        if rounds(config.prompt) > 1:
            state.start = {name: value.clone() for name, value in model.owned_state().items()}
        save()
    else:
        load_checkpoint(checkpoint, state, stands_on)
        console.say(f"resuming {folder} at epoch {state.progress.epoch + 1}, step {state.progress.step}")
    with open_log(folder, None if fresh else state.progress.step, write=is_first()) as log:
        console.attach(log)
        try:
            _introduce(setting, model, folder)
            with torch.random.fork_rng():
                yield from train_model(state, setting, task, log, save)
            return _conclude(state, setting, folder, log)
        finally:
            console.attach(None)


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
    console.say(budget.text())
    console.say(f"run folder: {folder}")


def _conclude(state: TrainState, setting: Setting, folder: Path, log: RunLog) -> TrainResult:
    config, data, model, console = setting.config, setting.data, state.model, setting.console
    chosen = state.average or state.best
    if chosen is not None:
        model.load_owned({name: value.to(setting.device) for name, value in chosen.items()})
    task = task_of(config)
    task.finish(model, setting)
    measured: dict[str, Any] = {}
    for split in ("val", "test"):
        if data.split(split):
            measured[split] = task.measure(model, setting, data.split(split), split, folder if is_first() else None)
    metric = task.metric(data)
    learning = sum(parameter.numel() for _, _, parameter in model.trainable())
    summary = {
        "best_epoch": state.progress.best_epoch,
        "epochs": state.progress.epoch,
        "seconds": round(state.progress.seconds, 3),
        "peak_bytes": state.progress.peak_bytes,
        "joules": state.progress.joules,
        "device": device_name(setting.device),
        "precision": setting.precision,
        "parameters": {"learning": learning, "total": total_parameters(model)},
        "backbone": model.backbone.name,
        "prompt": config.prompt.kind,
        "tuning": config.tuning.kind,
        "head": config.head.kind,
        "data": data.summary(),
        **measured,
    }
    slim = {
        split: {key: value for key, value in found.items() if isinstance(value, float)}
        for split, found in measured.items()
    }
    if not is_first():
        wait()
        return TrainResult(folder, folder / "artifact.safetensors", summary)
    artifact = save_artifact(
        folder / "artifact.safetensors", model, config, data.classes, data.multilabel, metrics=slim
    )
    summary["artifact_bytes"] = artifact.stat().st_size
    plots.curves_png(state.progress.history, folder / "curves.png", metric=metric)
    if isinstance(model.prompt, PixelPrompts):
        plots.picture_png(prompt_picture(model.prompt), folder / "prompt.png")
    task.pictures(model, setting, measured, folder)
    write_json(folder / "metrics.json", summary)
    log.row("end", step=state.progress.step, **slim)
    for split, found in slim.items():
        loss = f", loss {found['loss']:.4f}" if "loss" in found else ""
        console.say(f"{split}: {metric} {found[metric]:.4f}{loss}")
    console.say(
        f"artifact: {artifact} ({summary['artifact_bytes'] / 1e6:.2f} MB), trained in {state.progress.seconds:.0f} s"
    )
    wait()
    return TrainResult(folder, artifact, summary)


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings on which a result depends."""
    tree = config.model_dump(mode="json", exclude={"out", "name", "compare"})
    for section, keys in FREE_AT_RESUME.items():
        for key in keys:
            tree[section].pop(key)
    return tree


def run_folder(config: RunConfig) -> Path:
    """A new folder. A name that was given is taken as it is, one that was made gets a number if it exists."""
    if config.name is not None:
        folder = config.out / config.name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} exists and is not overwritten; choose another name=..., "
                f"or go on with: vpt train resume={folder}"
            )
        return folder
    stem = "-".join([Path(config.data.path).name, config.backbone.name, config.prompt.kind])
    stem += "" if config.tuning.kind == "frozen" else f"-{config.tuning.kind}"
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    number = 1
    while (folder := config.out / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


def _create(folder: Path, config: RunConfig) -> None:
    stored = config.model_copy(update={"name": folder.name})
    write_text(folder / "config.yaml", yaml.safe_dump(stored.model_dump(mode="json"), sort_keys=False))


def _with_prompt(config: RunConfig, kind: str) -> RunConfig:
    tree = config.model_dump(mode="json")
    return load_config(base=tree, overrides=[f"prompt.kind={kind}", "compare=[]"])


def _sibling(folder: Path, kind: str) -> Path:
    return folder / f"compare-{kind}"


def _compare(setting: Setting, results: Sequence[TrainResult]) -> None:
    if len(results) < 2 or not is_first():
        return
    say_comparison(setting.console, [result.metrics for result in results])
    split = "test" if setting.data.test else "val"
    files = {method_name(result.metrics): result.folder / f"predictions-{split}.csv" for result in results}
    if all(file.is_file() for file in files.values()):
        answers = {name: read_answers(file) for name, file in files.items()}
        path = results[0].folder / "comparison.png"
        comparison_png(answers, setting.data.split(split), setting.config.data.max_pixels, path)
        setting.console.say(f"picture: {path}")
