"""Machines in a bad state, for tests: small disks, other processes, processes without terminal or home."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of so many kilobytes at `folder`; gives a function that changes its size."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")

    def resize(new: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={new}k", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def other_process(work: Callable[[], object]) -> Iterator[BaseProcess]:
    """`work` in a process of its own, which is killed at the end."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def in_child(work: Callable[[], int | None]) -> tuple[int, str]:
    """The exit code of `work` in a process of its own, and what it wrote on standard error; negative after a signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        os.close(reader)
        os.dup2(writer, 2)
        with open(2, "w", buffering=1, closefd=False, errors="backslashreplace") as stderr:
            import sys

            sys.stderr = stderr
            try:
                code = work() or 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text
