"""Parses pickles as data, without importing or calling anything.

A pickle is a program for a small stack machine. Python's own machine imports the names in it and calls them. This one
does not: an object becomes a `Call`, which stores the function, its arguments, and the state that would have been set
on the result. So defaultdicts, configurations, random states and other objects that a training script saved next to its
tensors can be skipped.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names in Python 2


class PickleError(ValueError):
    """Bytes that are not a complete pickle, or an unsupported kind."""


@dataclass(frozen=True)
class Name:
    """A class or function by module and name, which is not imported."""

    path: str


@dataclass(frozen=True)
class Reference:
    """A persistent id: content stored elsewhere in the file, such as a tensor's storage."""

    id: Any


class Call:
    """An object: the call that would have created it, and the state that would have been set.

    Args:
        function: a `Name`, or anything else the pickle would have called.
        args: its arguments.
    """

    __slots__ = ("args", "elements", "function", "items", "state")

    def __init__(self, function: Any, args: Any) -> None:
        self.function = function
        self.args: tuple[Any, ...] = tuple(args) if isinstance(args, tuple | list) else (args,)
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []
        self.state: Any = None

    @property
    def path(self) -> str:
        """Module and name of the function; empty if the pickle computes it."""
        return self.function.path if isinstance(self.function, Name) else ""


def parse(file: BinaryIO) -> Any:
    """Parse the next pickle of a file to numbers, strings, lists, tuples, dicts and `Call`s, and move past it.

    Raises:
        PickleError: bytes that are not a complete pickle.

    >>> import io, pickle
    >>> from collections import OrderedDict
    >>> found = parse(io.BytesIO(pickle.dumps({"a": OrderedDict(b=1)})))
    >>> found["a"].path, found["a"].items
    ('collections.OrderedDict', {'b': 1})
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except Exception as error:  # invalid bytes can raise anything
        raise PickleError(f"{type(error).__name__}: {error}") from error
    raise PickleError("it ends unexpectedly")


class _Machine:
    """The stack machine, which records calls instead of executing them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in CONSTANTS:
            self.stack.append(argument)
        elif name in SIMPLE:
            SIMPLE[name](self)
        elif name == "GLOBAL":
            self.stack.append(_name(*argument.split(" ", 1)))
        elif name == "INST":
            self.push(Call(_name(*argument.split(" ", 1)), self.marked()))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "PERSID":
            self.stack.append(Reference(argument))
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"the instruction {name} is not supported")

    def push(self, value: Any) -> None:
        """Push a value onto the current stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Pop the topmost value."""
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Pop all values above the last mark."""
        above = self.stack
        self.stack = self.outer.pop()
        return above

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_one(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def replace(self, count: int, made: Callable[..., Any]) -> None:
        """Replace the last `count` values by the result of `made`."""
        values = [self.pop() for _ in range(count)][::-1]
        self.stack.append(made(*values))

    def pairs(self, values: list[Any]) -> None:
        """Add keys and values to the topmost mapping."""
        target = self.stack[-1]
        target = target.items if isinstance(target, Call) else target
        if not isinstance(target, dict):
            raise PickleError(f"items for a {type(target).__name__}")
        target.update(zip(values[::2], values[1::2], strict=True))

    def several(self, values: list[Any]) -> None:
        """Add elements to the topmost list or set."""
        target = self.stack[-1]
        target = target.elements if isinstance(target, Call) else target
        if not isinstance(target, list):
            raise PickleError(f"elements for a {type(target).__name__}")
        target.extend(values)

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state

    def obj(self) -> None:
        function, *args = self.marked()
        self.push(Call(function, args))


def _name(module: str, name: str) -> Name:
    return Name(f"{OLD_MODULES.get(module, module)}.{name}")


def _dict(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


# Instructions whose argument is the value to push.
CONSTANTS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8"}
)
SIMPLE: dict[str, Callable[[_Machine], Any]] = {
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "EMPTY_LIST": lambda m: m.push([]),
    "EMPTY_DICT": lambda m: m.push({}),
    "EMPTY_SET": lambda m: m.push(Call(Name("builtins.set"), ())),
    "MARK": lambda m: m.mark(),
    "POP": lambda m: m.pop_one(),
    "POP_MARK": lambda m: m.marked(),
    "DUP": lambda m: m.push(m.stack[-1]),
    "TUPLE": lambda m: m.push(tuple(m.marked())),
    "TUPLE1": lambda m: m.replace(1, lambda *values: values),
    "TUPLE2": lambda m: m.replace(2, lambda *values: values),
    "TUPLE3": lambda m: m.replace(3, lambda *values: values),
    "LIST": lambda m: m.push(m.marked()),
    "DICT": lambda m: m.push(_dict(m.marked())),
    "FROZENSET": lambda m: m.push(Call(Name("builtins.frozenset"), (m.marked(),))),
    "APPEND": lambda m: m.several([m.pop()]),
    "APPENDS": lambda m: m.several(m.marked()),
    "ADDITEMS": lambda m: m.several(m.marked()),
    "SETITEM": lambda m: m.pairs([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.pairs(m.marked()),
    "STACK_GLOBAL": lambda m: m.replace(2, _name),
    "REDUCE": lambda m: m.replace(2, Call),
    "NEWOBJ": lambda m: m.replace(2, Call),
    "NEWOBJ_EX": lambda m: m.replace(3, lambda function, args, _named: Call(function, args)),
    "OBJ": lambda m: m.obj(),
    "BUILD": lambda m: m.build(),
    "MEMOIZE": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "BINPERSID": lambda m: m.replace(1, Reference),
}
