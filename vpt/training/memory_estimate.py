"""Estimated cost of a run before it starts: trainable parameters, memory, and size of the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vpt.backbones.quantization.linear import plain_parts
from vpt.models.artifact import artifact_bytes
from vpt.models.base import Prompted
from vpt.utils.device import Autocast


@dataclass(frozen=True)
class Budget:
    """Parameter counts and memory in bytes."""

    learning: int
    total: int
    weights: int  # bytes: all parameters and buffers
    optimizer: int  # bytes: gradients and optimiser state
    activations: int  # bytes: stored for the backward pass of one forward pass
    artifact: int  # bytes
    process: int = 0  # bytes: what the process takes before training, weights and libraries included; 0 on a GPU

    @property
    def memory(self) -> int:
        """Estimated peak in bytes during training: of the process, or, on a GPU, of what torch allocates there."""
        return max(self.process, self.weights) + self.optimizer + self.activations

    def text(self) -> str:
        """The estimate as text for the user.

        >>> Budget(50_000, 1_000_000, 4_000_000, 600_000, 2**30, 204_096).text().splitlines()[0]
        'trainable parameters: 50,000 of 1,000,000 (5.000%)'
        """
        first, where = f"weights {size(self.weights)}", "on the GPU"
        if self.process:
            first = f"Python, libraries and data {size(max(0, self.process - self.weights))}, {first}"
            where = "of this process"
        return (
            f"trainable parameters: {self.learning:,} of {self.total:,} ({100 * self.learning / self.total:.3f}%)\n"
            f"estimated peak memory {where}: {size(self.memory)} ({first}, activations {size(self.activations)}, "
            f"gradients and optimiser {size(self.optimizer)})\n"
            f"artifact size: {size(self.artifact)}"
        )


def total_parameters(model: Prompted) -> int:
    """Number of parameters of a model, including those of a backbone that is sharded across processes."""
    return sum(parameter.numel() for parameter in model.parameters())


def size(count: float) -> str:
    """Number of bytes as text, in decimal units.

    >>> size(56616), size(2_780_732)
    ('57 kB', '2.78 MB')
    """
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.2f} MB" if unit == "MB" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def estimate(
    model: Prompted,
    optimizer_slots: int,
    pass_size: int,
    trial: Callable[[int], Tensor],
    autocast: Autocast,
    process: int = 0,
) -> Budget:
    """Estimate the cost by passes of one and two images, extrapolated to `pass_size`.

    Args:
        model: the model to train.
        optimizer_slots: values that the optimiser stores per trainable parameter (AdamW 2, SGD with momentum 1).
        pass_size: number of images in one pass.
        trial: computes the loss of a pass over a number of images.
        autocast: context of the pass.
        process: memory of the process so far in bytes, if the model is in it: not on a GPU.
    """
    learning = sum(parameter.numel() for _, _, parameter in model.trainable())
    trainable_bytes = sum(p.nbytes for _, _, p in model.trainable())
    tensors = [*model.parameters(), *model.buffers()]
    one, two = (_saved_bytes(model, partial(trial, count), autocast) for count in (1, 2))
    return Budget(
        learning=learning,
        total=total_parameters(model),
        weights=sum(part.numel() * part.element_size() for tensor in tensors for part in plain_parts(tensor)),
        optimizer=trainable_bytes * (1 + optimizer_slots),
        activations=max(0, one + (two - one) * (pass_size - 1)),
        artifact=artifact_bytes(model),
        process=process,
    )


def _saved_bytes(model: Prompted, run: Callable[[], Tensor], autocast: Autocast) -> int:
    """Bytes that autograd stores for the backward pass; each storage counts once, parameters are excluded."""
    own = {
        part.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()] for part in plain_parts(t)
    }
    kept: dict[int, torch.UntypedStorage] = {}  # alive until they are counted, or addresses would be reused

    def pack(tensor: Tensor) -> None:
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage

    # Evaluation mode: one image has no batch statistics, and the counts are the same. There is no backward pass, so
    # nothing is packed: a result stored by its own node would never be freed.
    model.eval()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing), autocast():
        run()
    return sum(storage.nbytes() for storage in kept.values())  # none of gathered weights, which FSDP has freed
