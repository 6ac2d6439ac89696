"""Several trainings on one backbone, step by step in the same batches.

Each is a run like any other, with its own data, prompt, head, optimiser, schedule, log and checkpoint. What they share
is the pass: their batches go through the backbone as one, each image under the prompts of its own run. Where runs read
the same images (one data set, one seed, one augmentation), these are loaded once, and the layers below the first prompt
are computed once for all of them.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import FrozenTuning, RunConfig
from vpt.data.data_module import Readings
from vpt.metrics.classification import ranking
from vpt.metrics.comparison import method_name
from vpt.models.classifier import PromptedModel, backbone_for
from vpt.prompts.batching import beside, shape_of
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.training.context import Setting, prepare
from vpt.training.loop import Done, Request, Steps, finish_step, step_seed
from vpt.training.run_folder import TrainResult, claim, refuse_taken
from vpt.training.shared_loader import SharedLoader
from vpt.training.signals import Stopped, Wish, listening
from vpt.training.tasks import task_of
from vpt.training.trainer import Ready, get_ready, training
from vpt.utils.console import Console
from vpt.utils.distributed import refuse
from vpt.utils.errors import UserError
from vpt.utils.folder_lock import lock_folder


def train_together(
    configs: Sequence[RunConfig], console: Console | None = None, stems: Sequence[str] | None = None
) -> list[TrainResult]:
    """Train runs side by side; each ends as if it had trained alone, but for rounding.

    Args:
        configs: classification on the same backbone, which stays frozen. Names that are given must differ.
        console: where is said how far they are.
        stems: names of runs without a name, which get a number where there are such already; default: as `train` names
            them.

    Raises:
        UserError: any mistake in configuration, data or backbone, before training starts; a run that failed, by name,
            after the others have finished.
    """
    console = console or Console()
    refuse("training runs side by side")
    _check(configs)
    shared: dict[Hashable, SharedLoader] = {}
    readings = Readings()
    backbone: Backbone | None = None
    ready: list[Ready] = []
    for config in configs:
        mine = Console(quiet=True)
        setting: Setting = replace(prepare(config, task_of(config).load, mine, readings), shared=shared)
        if backbone is None:
            backbone = backbone_for(setting.config).to(setting.device)
        ready.append(get_ready(setting, backbone=backbone))
    made: Sequence[str | None] = stems or [None] * len(ready)
    folders = _claimed([each.setting.config for each in ready], made)
    with contextlib.ExitStack() as holding:
        places = [holding.enter_context(lock_folder(folder)) for folder in folders]
        runs = [training(each, locked) for each, locked in zip(ready, places, strict=True)]
        console.say(f"{len(runs)} runs on {configs[0].backbone.name}, side by side")
        results, failures = _drive(runs, folders, console)
    _say(console, folders, results)
    if failures:
        told = "; ".join(f"{folders[at]}: {error}" for at, error in failures.items())
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the others are finished: {told}")
    return [results[at] for at in range(len(runs))]


def _claimed(configs: Sequence[RunConfig], stems: Sequence[str | None]) -> list[Path]:
    """A folder for every run, or for none."""
    folders: list[Path] = []
    try:
        for config, stem in zip(configs, stems, strict=True):
            folders.append(claim(config, stem))
    except UserError:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folders


def _check(configs: Sequence[RunConfig]) -> None:
    if not configs:
        raise UserError("no run to train; give one configuration or more")
    first = configs[0]
    for config in configs:
        if config.backbone != first.backbone or type(config.head) is not type(first.head):
            # Heads decide whether the text tower or the classifier is loaded with the backbone.
            raise UserError("runs that train together share backbone and kind of head; train the others by themselves")
        if config.task != "classification" or not isinstance(config.tuning, FrozenTuning):
            raise UserError(
                "runs that train together classify on a frozen backbone: task=classification, tuning=frozen"
            )
        if config.train.drop_path:
            raise UserError("train.drop_path draws for one run at a time; train these runs one after the other")
        if config.train.device != first.train.device or config.train.precision != first.train.precision:
            raise UserError("runs that train together share train.device and train.precision")
        refuse_taken(config)
    names = [config.name for config in configs if config.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two runs are called {twice[0]}; give them different names")


def _drive(
    runs: Sequence[Steps[TrainResult]], folders: Sequence[Path], console: Console
) -> tuple[dict[int, TrainResult], dict[int, UserError]]:
    """Take steps for all until each has ended; results, and mistakes by the number of the run."""
    results: dict[int, TrainResult] = {}
    failures: dict[int, UserError] = {}
    wanted: dict[int, Request] = {}
    epochs = dict.fromkeys(range(len(runs)), 0)

    def go_on(at: int, done: Done | None) -> None:
        wanted.pop(at, None)
        try:
            request = next(runs[at]) if done is None else runs[at].send(done)
        except StopIteration as end:
            results[at] = end.value
            console.say(f"{folders[at].name}: finished")
            return
        except UserError as error:
            failures[at] = error
            console.warn(f"{folders[at].name}: {error}")
            return
        wanted[at] = request
        progress = request.state.progress
        if progress.epoch > epochs[at]:
            epochs[at] = progress.epoch
            row = progress.history[-1]
            scores = ", ".join(f"{key.replace('_', ' ')} {row[key]:.4f}" for key in row if key not in ("epoch", "lr"))
            console.say(f"{folders[at].name}: epoch {progress.epoch}/{request.config.epochs}: {scores}")

    try:
        with listening() as wish:
            for at in range(len(runs)):
                go_on(at, None)
            while wanted:
                if wish.number is not None:
                    _stop([runs[at] for at in wanted], wish)
                places = list(wanted)
                for at, done in zip(places, step_together([wanted[at] for at in places]), strict=True):
                    go_on(at, done)
            wish.check()  # it may have come while the last ones ended
    finally:
        for run in runs:
            run.close()
    return results, failures


def _stop(runs: Sequence[Steps[TrainResult]], wish: Wish) -> NoReturn:
    """Let each save its state."""
    assert wish.number is not None
    for run in runs:
        with contextlib.suppress(Stopped):
            run.throw(Stopped(wish.number))
    raise Stopped(wish.number)


def _say(console: Console, folders: Sequence[Path], results: dict[int, TrainResult]) -> None:
    rows = []
    for at, result in sorted(results.items()):
        measured = [result.metrics.get(split) for split in ("val", "test")]
        shown = [f"{100 * found[ranking(found)]:.1f}%" if found else "-" for found in measured]
        rows.append(
            [folders[at].name, method_name(result.metrics), *shown, f"{result.metrics['artifact_bytes'] / 1e6:.2f} MB"]
        )
    if rows:
        console.table("trained together", ["run", "method", "validation", "test", "artifact"], rows)


@dataclass
class _Part:
    """One run's share of a pass."""

    request: Request
    model: PromptedModel
    layers: list[LayerPrompt] | None
    random: list[Tensor]  # states of the generators after what was drawn so far: the next draw goes on from there

    def normalise(self, images: Tensor) -> Tensor:
        """Images as the backbone expects them, a pixel prompt at the places that this run draws."""
        device = self.request.device
        _set_random_states(self.random, device)
        found = self.model.normalise(images)
        self.random = _random_states(device)
        return found

    def scores(self, features: Tensor) -> Tensor:
        """Of the head, with the dropout that this run draws."""
        _set_random_states(self.random, self.request.device)
        return self.model.head(features)


def step_together(requests: Sequence[Request]) -> list[Done]:
    """Take a step of each; those that can share a pass through the backbone do."""
    groups: dict[Hashable, list[tuple[int, _Part]]] = {}
    done: dict[int, Done] = {}
    for at, request in enumerate(requests):
        model = request.state.model
        if not isinstance(model, PromptedModel) or request.of_scores is None or request.config.accumulate > 1:
            done[at] = request.perform()
            continue
        part = _part(request, model)
        groups.setdefault(_key(part), []).append((at, part))
    for members in groups.values():
        places = [at for at, _ in members]
        if len(members) == 1:
            done[places[0]] = requests[places[0]].perform()
        else:
            done |= dict(zip(places, _step([part for _, part in members]), strict=True))
    return [done[at] for at in range(len(requests))]


def _part(request: Request, model: PromptedModel) -> _Part:
    torch.manual_seed(step_seed(request.config.seed, request.state.progress.step))
    with request.autocast():
        layers = model.constants(len(request.batch.index))
    return _Part(request, model, layers, _random_states(request.device))


def _key(part: _Part) -> Hashable:
    model = part.model
    return (id(model.backbone.net), model.image_size, model.pool, shape_of(model.steps, part.layers))


def _step(parts: Sequence[_Part]) -> list[Done]:
    first = parts[0]
    device = first.request.device
    counts = [len(part.request.batch.index) for part in parts]
    # The same batch object: the runs read the same images, see SharedLoader.
    same = all(part.request.batch is first.request.batch for part in parts)
    same = same and not any(isinstance(part.model.prompt, PixelPrompts) for part in parts)
    there = [part.request.batch.to(device) for part in (parts[:1] if same else parts)]
    losses, done = [], []
    with first.request.autocast():
        images = [part.normalise(batch.images) for part, batch in zip(parts, there, strict=False)]
        layers = beside([part.layers for part in parts], counts)
        model = first.model
        features = model.backbone.features(
            torch.cat(images), model.steps, model.pool, layers, copies=len(parts) if same else 1
        )
        for number, (part, mine, count) in enumerate(zip(parts, features.split(counts), counts, strict=True)):
            labels = there[0 if same else number].labels
            assert part.request.of_scores is not None
            loss, right = part.request.of_scores(part.scores(mine), labels)
            losses.append(part.request.state.scaler.scale(loss))
            done.append((float(loss.detach()), None if right is None else float(right), count))
    # A loss that is not finite would reach nobody else's gradients, but it is left out all the same.
    finite = [loss for loss, (value, *_) in zip(losses, done, strict=True) if math.isfinite(value)]
    if finite:
        torch.stack(finite).sum().backward()
    for part, (value, *_) in zip(parts, done, strict=True):
        finish_step(part.request.state, part.request.config, value)
    return [Done(*figures) for figures in done]


def _random_states(device: torch.device) -> list[Tensor]:
    """Of the CPU, which draws places, and of a GPU, which draws dropout."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
