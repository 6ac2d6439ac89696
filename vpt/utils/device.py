"""Selection of the device and the precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from vpt.utils.errors import UserError
from vpt.utils.precision import PRECISIONS, Precision

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # dtypes of autocast

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; 'auto' selects a GPU if there is one.

    Raises:
        UserError: a device that does not exist on this machine.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name} does not exist; use auto, cpu, cuda, cuda:1 or mps") from None
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= present:
        raise UserError(f"device {name} is not on this machine (it has {present} of that kind); use auto or cpu")
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name; 'auto' is the fastest that the device computes natively: see `native_precision`.

    Raises:
        UserError: an unknown precision, or fp16 without a GPU, where it is slow and overflows.

    >>> pick_precision("fp32", torch.device("cpu"))
    'fp32'
    """
    if name == "auto":
        return native_precision(device)
    if name not in PRECISIONS:
        raise UserError(f"precision '{name}' is unknown; known: {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"precision fp16 needs a CUDA device, not {device.type}; use bf16 or fp32")
    return name


def native_precision(device: torch.device) -> Precision:
    """The fastest precision that a device computes natively: bf16 on GPUs and CPUs with instructions for it (AMX or
    AVX512-BF16), fp16 on other GPUs, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU has matrix instructions for bf16. Others only emulate it, slower than fp32."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def trained_precision(recorded: str, device: torch.device) -> Precision:
    """The precision to measure an artifact in as in training; fp32 if the device cannot compute it.

    Args:
        recorded: `train.precision` of the artifact; "auto" in those of version 0.1.
        device: the device.

    >>> trained_precision("bf16", torch.device("cpu")), trained_precision("fp16", torch.device("cpu"))
    ('bf16', 'fp32')
    """
    if recorded == "auto":
        return native_precision(device) if device.type == "cuda" else "fp32"
    return pick_precision("fp32" if recorded == "fp16" and device.type != "cuda" else recorded, device)


def inference_precision(recorded: str, device: torch.device, named: str | None = None) -> Precision:
    """The precision to use an artifact in: the named one, or that of training if the device computes it natively, else
    fp32.

    Args:
        recorded: `train.precision` of the artifact; "auto" in those of version 0.1, which are used in fp32.
        device: the device.
        named: the user's choice, as in `pick_precision`; None: as recorded.

    Raises:
        UserError: errors of `pick_precision`.

    >>> inference_precision("fp16", torch.device("cpu"))
    'fp32'
    """
    if named is not None:
        return pick_precision(named, device)
    if recorded == "fp16" and device.type == "cuda":
        return "fp16"
    return "bf16" if recorded == "bf16" and native_precision(device) == "bf16" else "fp32"


def autocast(precision: str, device: torch.device) -> Autocast:
    """Autocast context for a forward pass in that precision."""
    if precision == "fp32":
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, dtype=HALVES[precision])
