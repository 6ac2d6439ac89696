"""Training, top to bottom: `Trainer.fit` -> `train_step` -> `forward_backward` -> `loss.backward()`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vpt.data.dataset import SPLITS
from vpt.models.base import Prompted
from vpt.models.combine import prompt_of
from vpt.models.header import CHECKPOINT
from vpt.training.batch_pictures import BatchPictures
from vpt.training.callbacks import Callback, default_callbacks
from vpt.training.change_epochs import CHANGEABLE, change_epochs
from vpt.training.checkpoint import Baseline, Progress, TrainState, load_checkpoint, save_checkpoint
from vpt.training.context import RunContext
from vpt.training.lr_schedule import rate
from vpt.training.optimizer import build_optimizer, set_rates
from vpt.training.parallelize import prepare_for_training
from vpt.training.run_folder import TrainResult, identity, write_config
from vpt.training.run_results import introduce, write_results
from vpt.training.signals import Stopped, stop_requests
from vpt.training.step import (
    AnyBatch,
    Batches,
    StepOutput,
    UnreadStep,
    step_seed,
    sum_over_processes,
    where,
)
from vpt.training.tasks import task_of
from vpt.training.tasks.base import Score, TrainingParts
from vpt.training.trackers import ResultsCsv, trackers
from vpt.utils.distributed import agreed, is_first, ranks, wait
from vpt.utils.errors import NotFinite, UserError
from vpt.utils.folder_lock import LockedFolder
from vpt.utils.run_log import NoLog, RunLog, open_log
from vpt.utils.tensor_state import load_into


def build_model(context: RunContext) -> Prompted:
    """Build the model of a run and check that it can be trained.

    Raises:
        UserError: a backbone, prompt, head, augmentation or loss that cannot be made of these settings and data.
    """
    task = task_of(context.config)
    model = task.build(context.config, context.data.classes, context.backbone)
    if not task.is_trainable(model):
        raise UserError("nothing to train: no prompt, a frozen backbone and a fixed label mapping; add a prompt")
    task.check(model, context)
    return model


class Trainer:
    """Trains one model and writes its run folder. Mistakes are reported on construction, before anything is written.

    Args:
        context: context from `prepare_run`.
        folder: folder to resume from, if it contains a checkpoint; default: a new run.
        callbacks: called after the default callbacks.
        new_epochs: `train.epochs` may differ from that of the checkpoint.

    Raises:
        UserError: model or training cannot be made of these settings and data, or the checkpoint is damaged or belongs
            to other settings or data.
    """

    def __init__(
        self,
        context: RunContext,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
        new_epochs: bool = False,
    ) -> None:
        self.context, self.config, self.task = context, context.config.train, task_of(context.config)
        self.metric = self.task.metric(context.data)  # of the validation split; larger is better
        self.model = build_model(context)
        prepare_for_training(self.model, self.config, context.device, context.precision)
        scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "fp16")
        self.state = TrainState(self.model, build_optimizer(self.model, self.config.optimizer), scaler, Progress())
        self.callbacks = [
            *default_callbacks(context.config),
            BatchPictures(),
            ResultsCsv(),
            *trackers(context.config.log),
            *callbacks,
        ]
        self.log: RunLog = NoLog()
        self.epoch_seconds = 0.0  # of the last epoch's steps
        self._locked: LockedFolder | None = None
        self._parts: TrainingParts | None = None
        self._unread: UnreadStep | None = None
        self._identity = {
            "settings": identity(context.config),
            "data": context.data.fingerprint(),
            "pixels": context.data.pixels,
            "backbone": self.model.backbone.fingerprint,
        }
        checkpoint = folder / CHECKPOINT if folder is not None else None
        self._change = ""  # what a new number of epochs does
        self.is_new = checkpoint is None or not checkpoint.is_file()
        wait()  # before the first of several processes writes one
        if self.is_new:
            known = prompt_of(self.config.prompt_from, self.model, context.config)
            baseline = self.task.initialize(self.model, context)
            owned = self.model.owned_state()
            load_into({name: owned[name] for name in known}, known)
            self.rank_untrained(baseline)
            for callback in self.callbacks:
                callback.at_start(self)
        else:
            assert checkpoint is not None
            images = [record for split in SPLITS for record in context.data.split(split)]
            before = load_checkpoint(checkpoint, self.state, self._identity, images, [CHANGEABLE] if new_epochs else [])
            self._change = change_epochs(self.progress, before["train"]["epochs"], self.config) if new_epochs else ""
            assert self.config.epochs is not None
            self.progress.finished |= self.progress.epoch >= self.config.epochs
            context.console.say(f"resuming {folder} at epoch {self.progress.epoch + 1}, step {self.progress.step}")

    @property
    def progress(self) -> Progress:
        """Progress of the run."""
        return self.state.progress

    @property
    def folder(self) -> Path | None:
        """The run folder, while the run is open."""
        return None if self._locked is None else self._locked.folder

    @property
    def batches(self) -> Batches:
        """Batches of an epoch."""
        assert self._parts is not None
        return self._parts.batches

    def fit(self, locked: LockedFolder) -> TrainResult:
        """Train to the last epoch or an early stop, then evaluate, and write artifact and metrics.

        Args:
            locked: the run folder.

        Raises:
            NotFinite: a loss, or scores of the validation split, are not finite.
            Stopped: a signal stopped training; the state is saved.
        """
        with stop_requests() as stop, self._opened(locked), torch.random.fork_rng():
            if any(True for _ in self.model.trainable()):  # otherwise its head is computed from data
                self._begin()
                while not self.progress.finished:
                    self.begin_epoch()
                    started = time.monotonic()
                    for batch in self.batches.epoch(self.progress.epoch, self.progress.batch):
                        if stop.number is not None:
                            self._stop(stop.number)
                        self.train_step(batch)
                        stop.number = agreed(stop.number)  # all processes stop at the same step
                    self.read_figures()
                    self.epoch_seconds = time.monotonic() - started
                    self.end_epoch()
            locked.check()
            result = write_results(self, locked.folder)
            for callback in self.callbacks:
                callback.at_end(self, result)
        stop.check()
        return result

    def try_step(self) -> float:
        """The loss of a first step without a run folder; the trainer is of no use afterwards.

        Raises:
            NotFinite: the loss is not finite.
        """
        try:
            with torch.random.fork_rng():
                self._begin()
                self.begin_epoch()
                self.train_step(next(iter(self.batches.epoch(0))))
                self.read_figures()
                return self.progress.loss_sum / self.progress.seen
        finally:
            for callback in self.callbacks:
                callback.close()
            self._close_loaders()

    def train_step(self, batch: AnyBatch) -> None:
        """One optimiser step."""
        for callback in self.callbacks:
            callback.before_step(self, batch)
        progress, batches = self.progress, len(self.batches)
        here = progress.epoch * batches + progress.batch
        rates = set_rates(self.state.optimizer, lambda base: rate(base, here, batches, self.config))
        output = self.forward_backward(batch)
        if ranks().count > 1:
            output = sum_over_processes(output, self.model)
        # On a GPU the loss is not synchronised here: if it is not finite, the run ends and this step is discarded.
        if output.loss.is_cuda or math.isfinite(output.loss):
            self.optimizer_step()
        self.state.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.batch += 1
        self.read_figures()  # of the previous step
        self._unread = UnreadStep(output, progress.step, rates, batch.index)
        for callback in self.callbacks:
            callback.after_step(self)

    def forward_backward(self, batch: AnyBatch) -> StepOutput:
        """Compute gradients of the mean loss over a batch, in `train.accumulate` parts."""
        config, device = self.config, self.context.device
        assert self._parts is not None
        loss_sum = torch.zeros((), device=device)
        hits: torch.Tensor | None = torch.zeros((), device=device)
        count = len(batch.index)  # may be 0 if a short last batch is split across many processes
        parts = list(batch.parts(config.accumulate)) if count else []
        if config.shard or self._parts.collective:  # processes wait for each other in every pass
            parts += [batch.blank()] * (config.accumulate - len(parts))
        for number, part in enumerate(parts):
            # Dropout is seeded by seed and step, so that a resumed run draws the same values.
            torch.manual_seed(step_seed(config.seed, self.progress.step, number, ranks().rank))
            there = part.to(device)
            with self.context.autocast():
                loss, correct = self._parts.objective(there.images, there.labels)
                loss = self.model.with_extra_losses(loss, there.images, there.labels)
            if not len(part.index):  # blank
                torch.autograd.grad(loss, [p for _, _, p in self.model.trainable()], allow_unused=True)
                continue
            fraction = len(part.index) / count
            self.state.scaler.scale(loss * fraction).backward()
            loss_sum += loss.detach() * fraction
            hits = None if hits is None or correct is None else hits + correct
        return StepOutput(loss_sum, hits, count)

    def optimizer_step(self) -> None:
        """Clip gradients and update the parameters."""
        state = self.state
        state.scaler.unscale_(state.optimizer)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for _, _, p in self.model.trainable()], self.config.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        self.model.after_step()

    def read_figures(self) -> None:
        """Add the loss and counts of the last step to those of its epoch, if not done yet.

        Raises:
            NotFinite: its loss is not finite.
        """
        unread, self._unread = self._unread, None
        if unread is None:
            return
        figures, progress = unread.read(), self.progress
        if not math.isfinite(figures.loss):
            names = [self.context.data.train[i].name for i in unread.index.tolist()]
            place = where(figures.step, figures.rates, f"images: {', '.join(names[:4])}, ...")
            raise NotFinite(f"the loss became {figures.loss}", place)
        progress.loss_sum += figures.loss * figures.count
        progress.correct = None if figures.hits is None else (progress.correct or 0.0) + figures.hits
        progress.seen += figures.count
        for callback in self.callbacks:
            callback.after_figures(self, figures)

    def rank_untrained(self, baseline: Baseline | None) -> None:
        """Count the model before training as epoch 0 and the best so far; an epoch must be better to be selected."""
        if baseline is None or baseline.score is None:
            return
        progress = self.progress
        progress.probe, progress.best_score, progress.best_epoch = baseline.score, baseline.score, 0
        if self.config.keep == "best":
            self.state.kept["best"] = baseline.state

    def validate(self) -> Score | None:
        """Score of the current weights on the validation split; None without such a split.

        Raises:
            NotFinite: scores are not finite.
        """
        assert self._parts is not None
        if self._parts.validate is None:
            return None
        try:
            return self._parts.validate()
        except NotFinite as error:
            rates = {group["role"]: group["lr"] for group in self.state.optimizer.param_groups}
            raise NotFinite(error.what, where(self.progress.step, rates, "validation")) from None

    def save(self) -> None:
        """Write a checkpoint."""
        if self._locked is not None and is_first():
            self._locked.check()
            save_checkpoint(self._locked.folder / CHECKPOINT, self.state, self._identity)

    def restart(self) -> None:
        """Restart from epoch 0 with the current weights; steps and seconds continue to count."""
        before = self.progress
        self.state.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.state.progress = Progress(
            step=before.step, seconds=before.seconds, peak_bytes=before.peak_bytes, joules=before.joules
        )
        self.state.kept.clear()
        self._close_loaders()
        self._parts = None  # frees its CUDA graph before another is recorded
        self._parts = self.task.training_parts(self.model, self.context)

    @contextmanager
    def _opened(self, locked: LockedFolder) -> Iterator[None]:
        """Open the run folder: write settings and a first checkpoint, and open the log."""
        self._locked, console = locked, self.context.console
        if self.is_new or self._change:
            if is_first():
                write_config(locked.folder, self.context.config)
                (locked.folder / "metrics.json").unlink(missing_ok=True)  # of the run before it was extended
            self.save()
        with open_log(locked.folder, None if self.is_new else self.progress.step, write=is_first()) as self.log:
            console.attach(self.log)
            try:
                introduce(self.task, self.model, self.context, locked.folder)
                if self._change:
                    console.say(self._change)
                yield
            finally:
                for callback in self.callbacks:
                    callback.close()
                self._close_loaders()
                console.attach(None)

    def _begin(self) -> None:
        self._parts = self.task.training_parts(self.model, self.context)
        for callback in self.callbacks:
            callback.before_training(self)

    def begin_epoch(self) -> None:
        """Prepare callbacks and model for an epoch, or for the rest of one in a resumed run."""
        assert self._parts is not None
        assert self.config.epochs is not None
        if self.progress.batch == 0:
            self._parts.before_epoch(self.progress.epoch)
        for callback in self.callbacks:
            callback.before_epoch(self)
        self.model.before_epoch(self.progress.epoch, self.config.epochs)
        self.model.train()

    def end_epoch(self) -> None:
        """Validate if it is due, and go to the next epoch."""
        progress, config = self.progress, self.config
        for callback in self.callbacks:
            callback.after_steps(self)
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / max(1, progress.seen),
            "lr": {group["role"]: group["lr"] for group in self.state.optimizer.param_groups},
        }
        if progress.correct is not None:
            row["train_accuracy"] = progress.correct / max(1, progress.seen)
        last = row["epoch"] == config.epochs
        measured = self.validate() if last or row["epoch"] % (config.eval_every or 1) == 0 else None
        if measured is not None:
            row |= {} if measured.loss is None else {"val_loss": measured.loss}
            scores = {self.metric: measured.score, **measured.more}
            row |= {f"val_{name}": value for name, value in scores.items()}
            for callback in self.callbacks:
                callback.after_validation(self, measured.score)
        progress.history.append(row)
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.correct, progress.seen = 0, 0.0, 0.0, 0
        progress.finished = last
        for callback in self.callbacks:
            callback.after_epoch(self, row)

    def _stop(self, number: int) -> None:
        """Save the state and stop.

        Raises:
            Stopped: always.
        """
        self.read_figures()
        for callback in self.callbacks:
            callback.on_stop(self)
        raise Stopped(number)

    def _close_loaders(self) -> None:
        if self._parts is not None:
            for loader in self._parts.loaders:
                loader.close()
