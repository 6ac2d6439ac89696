"""What a measurement of benchmarks/gpu_session.py is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a measurement is given.

    Args:
        part: file for its result; a stopped measurement finds there what it wrote before.
        device: "cuda" or "cpu".
        tiny: with tiny models and few rounds.
        seconds: until it is stopped.
    """

    part: Path
    device: str
    tiny: bool
    seconds: float

    def words(self, full: list[str], tiny: list[str]) -> list[str]:
        """Arguments of a program that writes the result itself."""
        return [*(tiny if self.tiny else full), "--device", self.device, "--out", str(self.part)]


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Args:
        name: what its result is stored under.
        seconds: expected on a GPU.
        what: what it measures, for messages and docs.
        run: writes the result to `Run.part`, or returns it; the key `not_measured` in it says why there is none.
        takes_the_rest: it uses all the time that is left.
    """

    name: str
    seconds: float
    what: str
    run: Callable[[Run], Any]
    takes_the_rest: bool = False
