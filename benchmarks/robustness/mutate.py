"""Mutated artifacts, as somebody who wishes no good would write them: pure functions of a seed.

Used by tests/models/test_hostile_artifacts.py, and by whatever tries more of them. A mutation is a name that says what
was done and where, and what came out; digests are made anew, so that the content is what is tried.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vpt.config.heads import HEADS
from vpt.config.prompts import PROMPTS
from vpt.utils.tensor_io import digest_of, read_tensors

Place = tuple[str | int, ...]

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

NUMBERS = [0, 1, -1, 2, 7, 0.5, -0.5, 1e-300, 3200, 15000, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400]
FLOATS = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324]
PATHS = [
    *("/etc/passwd", "/dev/zero", "/proc/self/mem", "../../../etc/passwd", "~root/x", "file:///etc/passwd", "C:\\x"),
    *("hf-hub:a/b", "local-dir:/tmp", "open_clip:hf-hub:a/b", "open_clip:local-dir:/tmp", "torchvision:../x"),
    *("resnet18.hf-hub:a/b", "timm/vit_tiny_patch16_224", "vit_tiny_patch16_224", "open_clip:ViT-B-32"),
]
TEXTS = ["", " ", "x", "{}", "%s%n", "true", "1", "a" * 5000, "a" * 200_000, "\x00", "\x1b[2J\x07", "\r\n"]
TEXTS += [
    "\u202eabc",
    "\ud800",
    "\udfff\ud800",
    "'; DROP TABLE x",
    "<script>alert(1)</script>",
    "🙂" * 50,
    "e\u0301" * 40,
]
LISTS: list[Any] = [
    [],
    [0],
    [None],
    [[]],
    [1, 1],
    [15000, 15000],
    [10**9],
    ["a", "a"],
    ["\ud800"],
    list(range(3000)),
    DEEP,
]
TREES: list[Any] = [{}, {"": 0}, {"kind": "x"}, {"kind": None}, {"kind": ["deep"]}, {"name": "x"}, {"a": {"b": {}}}]
VALUES: list[Any] = [None, True, False, *NUMBERS, *FLOATS, *PATHS, *TEXTS, *LISTS, *TREES]


def places(tree: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a tree of JSON, its root left out, in order.

    >>> list(places({"a": [1, {"b": 2}]}))
    [('a',), ('a', 0), ('a', 1), ('a', 1, 'b')]
    """
    if isinstance(tree, dict | list):
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*at, key)
            yield from places(item, (*at, key))


def headers(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every single mutation of a header: what was done, and the JSON text that came out.

    Each value is replaced by others of its own and of other types, removed, repeated, renamed; keys are added.
    """
    for at in places(tree):
        shown = ".".join(map(str, at))
        old = _get(tree, at)
        for value in [*_near(old), *_kinds(at)]:
            yield f"{shown} = {_short(value)}", _with(tree, at, value)
        for value in VALUES:
            yield f"{shown} = {_short(value)}", _with(tree, at, value)
        yield f"{shown} is gone", _text(_without(tree, at))
        if isinstance(at[-1], str):
            yield f"{shown} is renamed", _text(_renamed(tree, at, f"{at[-1]}_"))
            yield f"{shown} occurs twice", _twice(tree, at)
        if isinstance(old, dict):
            for key in ("x", "__class__", "trust_remote_code", "\ud800", ""):
                yield f"{shown} has a key {key!r}", _with(tree, at, {**old, key: 1})
        if isinstance(old, list) and old:
            yield f"{shown} repeats its first", _with(tree, at, [*old, old[0]])
            yield f"{shown} lacks its last", _with(tree, at, old[:-1])
            yield f"{shown} is a thousand times as long", _with(tree, at, old * 1000)
    whole = _text(tree)
    for name, text in (
        ("no object", "[]"),
        ("no header", "null"),
        ("an empty object", "{}"),
        ("cut off", whole[: len(whole) // 2]),
        ("something behind it", whole + "x"),
        ("deep", "[" * 100_000),
        ("deep objects", '{"a":' * 5000 + "1" + "}" * 5000),
        ("long", json.dumps({"kind": "x" * 5_000_000})),
        ("many numbers", f"[{'0,' * 1_500_000}0]"),
        ("a long number", whole.replace('"format": 2', f'"format": {"9" * 5000}')),
        ("a number beyond floats", whole.replace('"format": 2', '"format": 1e400')),
    ):
        yield f"the header is {name}", text


def drawn(tree: Mapping[str, Any], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """So many mutations of a header, drawn evenly over its places; every third of them is of two or three places."""
    chance = random.Random(seed)
    where = list(places(tree))
    for number in range(count):
        mutated: Any = copy.deepcopy(dict(tree))
        names = []
        for _ in range(1 if number % 3 else chance.choice((2, 3))):
            there = [at for at in where if _holds(mutated, at)]
            at = chance.choice(there)
            value = chance.choice([*_near(_get(mutated, at)), *_kinds(at), *chance.choices(VALUES, k=6)])
            _set(mutated, at, copy.deepcopy(value))
            names.append(f"{'.'.join(map(str, at))} = {_short(value)}")
        yield " and ".join(names), _text(mutated)


def tensors(old: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mutations of the tensors of an artifact: shapes, types, names and numbers that do not belong there."""
    yield "no tensors", {}
    yield "one more", {**old, "prompt.more": torch.zeros(2)}
    yield "one more of the backbone", {**old, "backbone.net.pos_embed": torch.zeros(1, 17, 32)}
    for name, value in old.items():
        rest = {key: item for key, item in old.items() if key != name}
        yield f"{name} is gone", rest
        yield f"{name} is renamed", {**rest, f"{name}x": value}
        yield f"{name} is empty", {**rest, name: value.new_zeros(0)}
        yield f"{name} is a number", {**rest, name: value.new_zeros(())}
        yield f"{name} has one axis more", {**rest, name: value[None].clone()}
        yield f"{name} is longer", {**rest, name: torch.cat([value.reshape(1, -1)] * 2)}
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool):
            yield f"{name} is {dtype}", {**rest, name: value.to(dtype)}
        if value.is_floating_point():
            for number in (math.nan, math.inf, 3e38):
                yield f"{name} is all {number}", {**rest, name: torch.full_like(value, number)}
        else:
            for whole in (-1, 10**6, 2**62, -(2**62)):
                yield f"{name} is all {whole}", {**rest, name: torch.full_like(value, whole)}


def contents(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many mutations of the bytes of a file, most of them in the header in front of its tensors."""
    chance = random.Random(seed)
    length = int.from_bytes(content[:8], "little")
    for number in (0, 1, 2, length - 1, length + 1, 2**31, 2**63, 2**64 - 1):
        yield f"a header of {number} bytes", number.to_bytes(8, "little") + content[8:]
    for size in (0, 1, 7, 8, 9, 8 + length, len(content) - 1):
        yield f"{size} bytes of it", content[:size]
    yield "longer", content + b"\0" * 64
    for _ in range(count):
        at = chance.randrange(8 + length if chance.random() < 0.8 else len(content))
        match chance.randrange(3):
            case 0:
                changed = bytes([content[at] ^ (1 << chance.randrange(8))])
            case 1:
                changed = chance.choice((b"", b"9", b"-", b"[", b"]", b'"', b"\\u0000", b"e400", b"\xff"))
            case _:
                changed = chance.randbytes(chance.randrange(1, 9))
        yield f"byte {at} is {changed!r}", content[:at] + changed + content[at + 1 :]


def write(target: Path, values: Mapping[str, Tensor], text: str) -> Path:
    """An artifact of any header text and tensors, with a digest that is right."""
    plain = {name: value.contiguous().clone() for name, value in values.items()}
    try:
        digest = digest_of(plain, text)
    except UnicodeEncodeError:
        digest = "0" * 64
    save_file(plain, target, {"vpt": f"{digest} {text}"})
    return target


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of an artifact as it was written."""
    return read_tensors(path)


def _near(old: Any) -> list[Any]:
    """Values that are like the old one, and so the more dangerous."""
    if isinstance(old, bool):
        return [not old, int(old)]
    if isinstance(old, int | float):
        return [old + 1, old * 2, -old, old * 1000, str(old), [old], *([float(old)] if abs(old) < 1e300 else [])]
    if isinstance(old, str):
        return [old.upper(), f" {old}", f"{old}\x00", old * 2, [old], {old: old}]
    if isinstance(old, list):
        return [old[::-1], {str(at): item for at, item in enumerate(old)}]
    return []


def _kinds(at: Place) -> list[Any]:
    """Other kinds of a section, with their own settings."""
    registries = {"prompt": PROMPTS, "head": HEADS}
    registry = registries.get(str(at[-1]))
    return [] if registry is None else [{"kind": kind} for kind in registry.own]


def _get(tree: Any, at: Place) -> Any:
    for key in at:
        tree = tree[key]
    return tree


def _holds(tree: Any, at: Place) -> bool:
    try:
        _get(tree, at)
        return isinstance(_get(tree, at[:-1]), dict | list)
    except (KeyError, IndexError, TypeError):
        return False


def _set(tree: Any, at: Place, value: Any) -> None:
    _get(tree, at[:-1])[at[-1]] = value


def _with(tree: Mapping[str, Any], at: Place, value: Any) -> str:
    mutated = copy.deepcopy(dict(tree))
    _set(mutated, at, value)
    return _text(mutated)


def _without(tree: Mapping[str, Any], at: Place) -> dict[str, Any]:
    mutated = copy.deepcopy(dict(tree))
    del _get(mutated, at[:-1])[at[-1]]
    return mutated


def _renamed(tree: Mapping[str, Any], at: Place, name: str) -> dict[str, Any]:
    mutated = copy.deepcopy(dict(tree))
    parent = _get(mutated, at[:-1])
    parent[name] = parent.pop(at[-1])
    return mutated


def _twice(tree: Mapping[str, Any], at: Place) -> str:
    """Duplicate the key of a place, which no dict can represent."""
    renamed = _text(_renamed(tree, at, "\u2603"))
    value = json.dumps(_get(tree, at))
    return renamed.replace(f'"{json.dumps(chr(0x2603))[1:-1]}": ', f'"{at[-1]}": {value}, "{at[-1]}": ', 1)


def _text(tree: Any) -> str:
    # Escaped, so that lone surrogates can be written.
    return json.dumps(tree)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)})"
