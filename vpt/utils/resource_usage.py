"""Resource usage of a computation: peak memory, and GPU energy if available."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Usage:
    """Resource usage since the creation of this object.

    On a GPU memory is that allocated by torch; otherwise that of the whole process, including Python and its libraries.

    Args:
        device: device of the computation.

    >>> usage = Usage(torch.device("cpu"))
    >>> usage.peak_bytes() > 1_000_000, usage.joules()
    (True, None)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Resets the peak on Linux; if that is not permitted, the peak is that of the whole process so far.
            with contextlib.suppress(OSError):
                RESET.write_text("5")
        self._counter = energy_counter(device)
        self._start = self._counter() if self._counter else None

    def peak_bytes(self) -> int:
        """Peak memory in bytes so far."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _resident_peak()

    def joules(self) -> float | None:
        """Energy of the GPU so far, including other processes; None if it is not measured."""
        now = self._counter() if self._counter else None
        return None if now is None or self._start is None else now - self._start


def energy_counter(device: torch.device) -> Callable[[], float | None] | None:
    """A function that returns the joules a GPU has used since its driver was loaded (NVML, from Volta on); None for
    other devices, or if nvidia-ml-py is not installed.

    >>> energy_counter(torch.device("cpu")) is None
    True
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        # By UUID: NVML counts the GPUs hidden by CUDA_VISIBLE_DEVICES, torch does not.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception:  # no library, driver or permission: training continues without measuring energy
        return None

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    return read


def device_name(device: torch.device) -> str:
    """Readable name of the device.

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
    """Name of the CPU, as reported by the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    known = [name for name in (*named[:1], platform.processor(), platform.machine()) if name not in ("", "unknown")]
    return known[0] if known else "CPU"


def resident_bytes() -> int:
    """Memory that this process takes now, in bytes, including Python and its libraries; where that is not known, its
    peak so far.

    >>> resident_bytes() > 1_000_000
    True
    """
    return _status("VmRSS") or _resident_peak()


def _status(key: str) -> int:
    """A size in bytes from the kernel's status of this process; 0 if it is not there."""
    try:
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _resident_peak() -> int:
    if peak := _status("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
