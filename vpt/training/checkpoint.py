"""Checkpoints: the complete state of a run between two steps, in one file, for exact resume."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.data.dataset import Record
from vpt.data.datasets.entries import listed
from vpt.data.medical.files import without_slice
from vpt.models.base import Prompted
from vpt.models.header import CheckpointHeader, parse_header
from vpt.training.optimizer import load_optimizer_tensors, optimizer_tensors
from vpt.training.run_folder import MOVABLE, differing
from vpt.utils.errors import FileError, UserError
from vpt.utils.tensor_io import open_tensors, write_tensors
from vpt.utils.tensor_state import misfits, shown

# What a run depends on besides its settings, with names for messages.
NAMED = {"data": "the data", "backbone": "the backbone", "pixels": "the pixels of the images"}
ADAMW, SGD = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}  # state that these optimisers keep per parameter
KEPT = ("best", "start", "average")
STRANGE = "does not match the settings of this run; start the run again under another name"


@dataclass
class Progress:
    """Progress of a run. The next step is batch `batch` of epoch `epoch`, both counted from 0."""

    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimiser steps done, including those before a restart
    loss_sum: float = 0.0  # over the images of this epoch so far
    correct: float | None = 0.0  # correct images; None if that is undefined
    seen: int = 0
    best_score: float | None = None
    best_epoch: int | None = None  # counted from 1; 0: the probe, before any training
    probe: float | None = None  # validation score of the probe, which is epoch 0
    stale: int = 0  # validations since the best one
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per finished epoch
    finished: bool = False
    seconds: float = 0.0  # of training and validation so far, without interruptions
    peak_bytes: int = 0  # peak memory during training, see resource_usage.py
    joules: float | None = None  # energy used by the GPU, if it reports it; without interruptions


@dataclass
class TrainState:
    """Content of a checkpoint: the model's own tensors, optimiser, loss scaler, progress, and state of callbacks.

    `kept` maps each of `KEPT` to tensors with the names of the model's own: those of the best epoch, the initial values
    (of a prompt that is yet to be pruned), and the weighted sum of the epochs so far.
    """

    model: Prompted
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """The model before training, which counts as epoch 0.

    Args:
        score: its validation metric; None without a validation split.
        state: its tensors, as `Prompted.owned_state` returns them.
    """

    score: float | None
    state: dict[str, Tensor]


def save_checkpoint(path: Path, state: TrainState, identity: Mapping[str, Any]) -> None:
    """Write `state` atomically. `identity` describes the settings, data and backbone that it belongs to."""
    tensors = {f"model:{name}": value for name, value in state.model.owned_state().items()}
    tensors |= {f"optimizer:{k}": v for k, v in optimizer_tensors(state.model, state.optimizer).items()}
    for part, values in state.kept.items():
        tensors |= {f"{part}:{name}": value for name, value in values.items()}
    header = {
        "kind": CheckpointHeader.KIND,
        "progress": asdict(state.progress),
        "scaler": state.scaler.state_dict(),
        "identity": dict(identity),
    }
    write_tensors(path, tensors, header)


def load_checkpoint(
    path: Path,
    state: TrainState,
    identity: Mapping[str, Any],
    images: Sequence[Record] = (),
    changeable: Collection[str] = (),
) -> dict[str, Any]:
    """Load a checkpoint into `state`, whose model and optimiser are newly created.

    Args:
        path: the file.
        state: the state to load it into.
        identity: the settings, data, pixels and backbone of this run.
        images: images of the run, for messages.
        changeable: names of settings that may differ.

    Returns:
        The settings that the checkpoint was written with.

    Raises:
        UserError: the file is damaged, its tensors do not fit the run, or settings, data, pixels or backbone of the run
            differ from those of the checkpoint; the message names them. Data and weights may have moved.
    """
    with open_tensors(path) as file:
        header, tensors = parse_header(CheckpointHeader, file), file.tensors()
    before, now = header.identity.model_dump(), dict(identity)
    changed = [name for name in differing(before, now) if name not in {*MOVABLE, *changeable}]
    if "pixels" in changed and ("data" in changed or not _same_decoder(before.get("pixels"), now.get("pixels"))):
        changed.remove("pixels")
    if changed:
        names = ", ".join(NAMED.get(name, name) for name in changed[:5])
        if "pixels" in changed and (newer := _written_since(path.with_name("config.yaml"), images)):
            names += f" (images modified since the run began: {listed(newer, 5)})"
        raise UserError(
            f"{path} cannot be resumed because this has changed: {names}; restore it, or start a run with another name"
        )
    _restore(path, state, tensors, header)
    return header.identity.settings


def _same_decoder(before: str | None, now: str | None) -> bool:
    """Whether two digests of pixels can be compared: older checkpoints have none, and another version of Pillow may
    decode a file differently.

    >>> _same_decoder("pillow-13.0.0 ab", "pillow-13.0.0 cd"), _same_decoder(None, "pillow-13.0.0 cd")
    (True, False)
    """
    return before is not None and now is not None and before.split(" ")[0] == now.split(" ")[0]


def _written_since(file: Path, images: Sequence[Record]) -> list[str]:
    """Names of images that were modified after a file was written."""
    try:
        moment = file.stat().st_mtime_ns
        return [
            image.name
            for image in images
            if isinstance(image.source, Path) and without_slice(image.source)[0].stat().st_mtime_ns > moment
        ]
    except OSError:
        return []


def _restore(path: Path, state: TrainState, tensors: Mapping[str, Tensor], header: CheckpointHeader) -> None:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("model", "optimizer", *KEPT)}
    for key, value in tensors.items():
        part, _, name = key.partition(":")
        if part not in parts:
            raise FileError(path, f"{STRANGE}: see {shown([key])}")
        parts[part][name] = value
    _load_model(path, state, parts)
    load_optimizer_tensors(state.model, state.optimizer, parts["optimizer"])
    if header.progress.round:  # version 0.1 kept the initial values after pruning too
        parts["start"] = {}
    state.kept = {part: parts[part] for part in KEPT if parts[part]}
    state.progress = Progress(**header.progress.model_dump(exclude={"round", "first_step"}))
    if state.scaler.is_enabled():
        if set(header.scaler) != set(state.scaler.state_dict()):
            raise FileError(path, f"{STRANGE}: see its header's scaler")
        state.scaler.load_state_dict(header.scaler)


def _load_model(path: Path, state: TrainState, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load the model's tensors after checking the shapes of all tensors of the checkpoint.

    Raises:
        FileError: a tensor is missing, unknown or of another shape.
    """
    try:
        state.model.load_owned(dict(parts["model"]))
    except UserError as error:
        raise FileError(path, f"{STRANGE}: {error}") from None
    owned = state.model.owned_state()
    wrong = [f"{part}:{name}" for part in KEPT for name in _strange(owned, parts[part])]
    wrong += [f"optimizer:{name}" for name in _strange_slots(state, parts["optimizer"])]
    if wrong:
        raise FileError(path, f"{STRANGE}: see {shown(wrong)}")


def _strange_slots(state: TrainState, kept: Mapping[str, Tensor]) -> list[str]:
    """Names of parameters whose optimiser state is incomplete or has another shape."""
    slots = ADAMW if isinstance(state.optimizer, torch.optim.AdamW) else SGD
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in kept.items():
        name, _, slot = key.rpartition("/")
        found.setdefault(name, {})[slot] = value
    learning = {name: parameter for name, _, parameter in state.model.trainable()}

    def fits(name: str, values: Mapping[str, Tensor]) -> bool:
        return (
            name in learning
            and set(values) == slots
            and all(
                value.is_floating_point() and value.shape == (() if slot == "step" else learning[name].shape)
                for slot, value in values.items()
            )
        )

    return [name for name, values in found.items() if not fits(name, values)]


def _strange(owned: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> list[str]:
    """Names of kept tensors that do not match the model; an empty state is accepted."""
    return misfits(owned, kept) if kept else []
