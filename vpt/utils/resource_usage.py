"""What a computation took of its machine: the most memory at once, and energy where a GPU counts it."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Usage:
    """Counts from when it is made.

    On a GPU memory is what torch holds there; elsewhere it is all of the process, Python and its libraries included.

    Args:
        device: what computes.

    >>> usage = Usage(torch.device("cpu"))
    >>> usage.peak_bytes() > 1_000_000, usage.joules()
    (True, None)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Linux forgets the highest mark so far; where it may not, the mark is that of the whole process.
            with contextlib.suppress(OSError):
                RESET.write_text("5")
        self._counter = energy_counter(device)
        self._start = self._counter() if self._counter else None

    def peak_bytes(self) -> int:
        """The most bytes in use at once so far."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _resident_peak()

    def joules(self) -> float | None:
        """Energy of the GPU so far, whoever used it; None where it is not measured."""
        now = self._counter() if self._counter else None
        return None if now is None or self._start is None else now - self._start


def energy_counter(device: torch.device) -> Callable[[], float | None] | None:
    """A function that reads the joules a GPU has used since its driver was loaded (NVML, from Volta on); None on
    another device, or where nvidia-ml-py is not installed.

    >>> energy_counter(torch.device("cpu")) is None
    True
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        # By its identity: NVML counts the GPUs that CUDA_VISIBLE_DEVICES hides, torch does not.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception:  # no library, no driver, no right to ask: an energy that is not measured stops no training
        return None

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    return read


def device_name(device: torch.device) -> str:
    """What people call the device.

    >>> device_name(torch.device("meta"))
    'meta'
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'' if threads == 1 else 's'}"


def processor() -> str:
    """The CPU's name, as well as the machine tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    known = [name for name in (*named[:1], platform.processor(), platform.machine()) if name not in ("", "unknown")]
    return known[0] if known else "CPU"


def _resident_peak() -> int:
    try:
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
