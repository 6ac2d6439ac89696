"""YAML parser with limits. A short file can expand to billions of values by nested aliases; such files are refused."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000  # with aliases expanded
DEEPEST = 50


class BadYaml(ValueError):
    """The error of a text, as the end of "it is not valid YAML: ..."."""


def parse_yaml(text: str) -> Any:
    """Parse a YAML text of plain types.

    Raises:
        BadYaml: not YAML, or more bytes, values or levels than a settings file can need.

    >>> parse_yaml("a: [1, 2]")
    {'a': [1, 2]}
    >>> parse_yaml("a: &a [*a]")
    Traceback (most recent call last):
    ...
    vpt.utils.safe_yaml.BadYaml: an alias refers to a value that contains it
    """
    if len(text) > MOST_BYTES:
        raise BadYaml(f"it has more than {MOST_BYTES:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise BadYaml(f"with its aliases expanded it has more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except BadYaml:
        raise
    except yaml.YAMLError as error:
        raise BadYaml(" ".join(str(error).split())[:300]) from None
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
        # Invalid numbers or dates: 2024-13-45, or more digits than Python can read.
        raise BadYaml(f"a value cannot be read ({' '.join(str(error).split())[:200]})") from None


class _Loader(yaml.SafeLoader):
    _level = 0
    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, within the limit of values."""
        self._count += 1
        self._level += 1
        if self._count > MOST_VALUES:
            raise BadYaml(f"it has more than {MOST_VALUES:,} values")
        if self._level > DEEPEST:
            raise BadYaml(f"it is nested more than {DEEPEST} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._level -= 1
        return node


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values of a node with its aliases expanded; stops counting at the limit."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise BadYaml("an alias refers to a value that contains it")
        return known[id(node)]
    known[id(node)] = 0  # count in progress
    count = 1
    if isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    else:
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
    for each in inner:
        count += _values(each, known)
        if count > MOST_VALUES:
            break
    known[id(node)] = count
    return count
