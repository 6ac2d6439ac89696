"""Runs `vpt` commands in forks of a process that has imported the libraries once, so that a shell script of many
commands takes seconds. Started as a program of its own: fork_server.py SOCKET."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import traceback

# In place of the installed `vpt`: sends its arguments, its folder and its streams to the server.
COMMAND = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({place!r})
    socket.send_fds(link, [json.dumps([os.getcwd(), sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit(int(link.recv(9) or b"1"))
"""
MODULES = ("torch", "timm", "torchvision", "albumentations", "sklearn.manifold", "scipy.stats", "matplotlib.figure")


def serve(place: str) -> None:
    """Answer commands one after another, until the process is ended."""
    for name in MODULES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for name in ("training.run", "inference.predictor", "inference.evaluate", "report.build", "interop.export.export"):
        importlib.import_module(f"vpt.{name}")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(place)
        door.listen()
        print("ready", flush=True)
        while True:
            link, _ = door.accept()
            message, streams, _, _ = socket.recv_fds(link, 1 << 20, 3)
            child = os.fork()
            if child == 0:
                _run(*json.loads(message), streams)
            for stream in streams:
                os.close(stream)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            link.sendall(str(code % 256).encode())
            link.close()


def _run(folder: str, words: list[str], streams: list[int]) -> None:
    """Run a command in this process, which ends with it."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        from vpt.cli.main import main

        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
