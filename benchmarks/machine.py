"""Shared by the benchmarks: peak memory, energy, the rate of matrix products, and a description of the machine."""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

from vpt.utils.resource_usage import energy_counter, processor


def reset_peak(device: torch.device) -> int:
    """Forget the peak so far; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # The C library keeps freed memory; given back first, it does not hide the next peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    """The highest number of bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def settle(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def joules(step: Callable[[], object], device: torch.device, seconds: float = 2.0) -> float | None:
    """Energy of one step by the GPU's own counter (NVML), over as many steps as fill `seconds`; None without one."""
    counter = energy_counter(device)
    before = counter() if counter else None
    if counter is None or before is None:
        return None
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step()
        settle(device)
        count += 1
    after = counter()
    return None if after is None else (after - before) / count


def matmul_rate(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> float:
    """Floating-point operations per second of one large matrix product: what a step could reach at best."""
    side = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for turn in range(rounds + 1):
        settle(device)
        started = time.perf_counter()
        one @ other
        settle(device)
        if turn:  # the first turn warms up
            seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds)


def operations(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in one step."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention of some devices is not known to the counter; spelt out it is. What is compiled while a mode like
    # the counter's is on would never be compiled again.
    with (
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        step()
    return counter.get_total_flops()


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
