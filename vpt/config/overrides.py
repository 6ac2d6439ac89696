"""Loading of a configuration from defaults, a YAML file and `key=value` overrides; all errors are reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vpt.config.base import Section
from vpt.config.plugins import REGISTRIES, use_named
from vpt.config.run import RunConfig
from vpt.config.short_names import check_cases, full_name, is_full, meant, section_name
from vpt.config.text_settings import as_texts
from vpt.config.training import Optimizer, PerRole
from vpt.config.tuning import Tuning
from vpt.config.words import read_value
from vpt.utils.errors import UserError, nearest
from vpt.utils.file_names import one_line
from vpt.utils.safe_yaml import MOST_BYTES, BadYaml, parse_yaml

MOST_LINES = 20  # most errors listed


def load_config(
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """Merge defaults, `base`, the YAML `file` and `key=value` overrides into one validated RunConfig.

    A class of the user's own (`prompt=my_module:MyPrompt`) is imported if the file or the overrides name it. `base` may
    come from an artifact or a run folder; names in it are never imported.

    Args:
        file: of settings, by their full names.
        overrides: `key=value`; a short name that means one setting is accepted, see `vpt.config.short_names`.
        base: settings below those of the file.
        settings: as `overrides`, as keywords; they come last.

    Raises:
        UserError: a file that cannot be read, or one line for every error found.

    >>> load_config(overrides=["prompt=shallow", "prompt.tokens=5"]).prompt.tokens
    5
    >>> load_config(data="photos", epochs=3).train.epochs
    3
    """
    tree: dict[str, Any] = dict(base or {})
    if file is not None:
        written = read_yaml(file)
        use_named(written)
        tree = _merge(tree, written)
    pairs = _full([*_pairs(overrides), *settings.items()], tree)
    words = _tree(as_texts(pairs, [*_written(overrides), *map(str, settings.values())], _SHORTHAND))
    use_named(words)
    tree = _merge(tree, words)
    if wrong := list(itertools.islice(_unencodable("", tree), MOST_LINES)):
        raise UserError("\n".join(wrong))
    return _resolved(tree, words)


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """See RunConfig.with_."""
    tree = config.model_dump()
    pairs = _full(list(changes.items()), tree)
    for key, value in pairs:
        if isinstance(value, Mapping):
            _drop(tree, key)
    words = _tree(as_texts(pairs, list(map(str, changes.values())), _SHORTHAND))
    return _resolved(_merge(tree, words), words)


def _drop(tree: dict[str, Any], key: str) -> None:
    """Remove a setting by its full name, if present."""
    *parents, last = key.split(".")
    place: Any = tree
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place.pop(last, None)


def _resolved(tree: Mapping[str, Any], words: Mapping[str, Any]) -> RunConfig:
    """The configuration of a tree that contains `words`; settings of matching cases apply to all others."""
    config = _validated(tree)
    if not config.cases:
        return config
    check_cases(config)
    # Loading this configuration again must not undo the overrides.
    given = _leaves(words)
    left = [
        {"when": case.when, "use": {name: value for name, value in case.use.items() if name not in given}}
        for case in config.cases
    ]
    for case in config.cases:
        if case.fits(config):
            for name, value in case.use.items():
                tree = _merge(tree, _nested(name, value))
    return _validated({**_merge(tree, words), "cases": left})


def _validated(tree: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = list(itertools.islice(_explain(error, tree), MOST_LINES + 1))
        raise UserError("\n".join([*lines[:MOST_LINES], *(["..."] if len(lines) > MOST_LINES else [])])) from None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping; raises a UserError if it is missing or something else."""
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(4 * MOST_BYTES + 1)  # bounded, whatever the file is
        value = parse_yaml(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"cannot read the config {file}: {reason}") from None
    except BadYaml as error:
        raise UserError(f"{file} is not valid YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{file} must contain 'key: value' lines, found {type(value).__name__}")
    return value


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Convert `a.b=1` overrides to a nested mapping; values are parsed as YAML.

    >>> parse_overrides(["train.epochs=3", "prompt=deep", "prompt.layers=[0, 1]"])
    {'train': {'epochs': 3}, 'prompt': {'kind': 'deep', 'layers': [0, 1]}}
    """
    return _tree(as_texts(_pairs(words), _written(words), _SHORTHAND))


def full_words(words: Sequence[str], base: Mapping[str, Any] | None = None) -> list[str]:
    """`key=value` words with the full names of their settings.

    Args:
        words: names may be short.
        base: the settings that the words change; they choose the kinds of sections.

    >>> full_words(["data=photos", "epochs=3"])
    ['data=photos', 'train.epochs=3']
    """
    keys = [key for key, _ in _full(_pairs(words), base or {})]
    return [f"{key}={word.partition('=')[2]}" for key, word in zip(keys, words, strict=True)]


def _pairs(words: Sequence[str]) -> list[tuple[str, Any]]:
    pairs = [word.partition("=") for word in words]
    for word, (key, equals, _) in zip(words, pairs, strict=True):
        if not equals or not key:
            raise UserError(f"'{word}' is not of the form key=value, as in train.epochs=10")
    return [(key, read_value(text)) for key, _, text in pairs]


def _written(words: Sequence[str]) -> list[str]:
    return [word.partition("=")[2] for word in words]


def _tree(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        tree = _merge(tree, _nested(key, value))
    return tree


def _full(pairs: Sequence[tuple[str, Any]], base: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings with full names and plain values."""
    pairs = [(section_name(key), _plain(value)) for key, value in pairs]
    if all(is_full(key) for key, _ in pairs):
        return pairs
    known = _tree([(key, value) for key, value in pairs if is_full(key)])
    use_named(known)
    known = _merge(base, known)
    return [(full_name(key, known), value) for key, value in pairs]


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Section) else value


def _nested(key: str, value: Any) -> dict[str, Any]:
    """A nested mapping of one setting, by its full name."""
    *parents, last = key.split(".")
    branch: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        branch = {parent: branch}
    return branch


def given_keys(words: Sequence[str]) -> list[str]:
    """Full names of the settings in `key=value` overrides.

    >>> given_keys(["data=photos", "train.optimizer=sgd", "head={kind: fcos, score: 0.1}"])
    ['data.path', 'train.optimizer.kind', 'head.kind', 'head.score']
    """
    return _leaves(parse_overrides(words))


def _leaves(tree: Mapping[str, Any]) -> list[str]:
    """Full names of the settings in a nested mapping."""

    def walk(path: tuple[str, ...], value: Any) -> Iterator[str]:
        if isinstance(value, str) and path in _SHORTHAND:
            value = {_SHORTHAND[path]: value}
        if not isinstance(value, Mapping):
            yield ".".join(path)
            return
        for key, item in value.items():
            yield from walk((*path, key), item)

    return list(walk((), tree))


_SHORTHAND = {
    ("backbone",): "name",
    ("data",): "path",
    ("prompt",): "kind",
    ("tuning",): "kind",
    ("head",): "kind",
    ("prompt", "pae"): "form",
    ("train", "optimizer"): "kind",
    ("train", "loss"): "kind",
}


def _merge(old: Mapping[str, Any], new: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Deep merge. If `kind` changes, settings of the old kind that the new one lacks are dropped."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        path = (*above, key)
        if path in _SHORTHAND:
            before, value = ({_SHORTHAND[path]: item} if isinstance(item, str) else item for item in (before, value))
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            if "kind" in value and value["kind"] != before.get("kind"):
                known = _fields_of_kind(key, value["kind"])
                before = {name: item for name, item in before.items() if name in known}
            merged[key] = _merge(before, value, path)
        else:
            merged[key] = value
    return merged


def _kinds(section: str) -> dict[str, type[Section]]:
    """The built-in kinds of a section, by its last name; empty for a section without kinds."""
    for registry in REGISTRIES:
        if section == registry.key.rpartition(".")[2]:
            return dict(registry.own)
    unions = {"tuning": Tuning, "optimizer": Optimizer}
    if section not in unions:
        return {}
    return {model.model_fields["kind"].default: model for model in get_args(get_args(unions[section])[0])}


def _section_of(section: str, kind: Any) -> type[Section] | None:
    """The section class of a kind, including plug-ins."""
    if not isinstance(kind, str):
        return None
    for registry in REGISTRIES:
        if section == registry.key.rpartition(".")[2]:
            found: type[Section] | None = registry.find(kind)
            return found
    return _kinds(section).get(kind)


def _fields_of_kind(section: str, kind: Any) -> set[str]:
    # A learning rate for one optimiser is wrong for the other, so no settings are kept if the optimiser changes.
    model = None if section == "optimizer" else _section_of(section, kind)
    return set() if model is None else set(model.model_fields)


def _explain(error: ValidationError, tree: Mapping[str, Any]) -> Iterator[str]:
    """One line for each error, with the user's key names."""
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        key = key_of(path)
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            yield f"unknown key '{_short(key)}'{meant(key[:80], tree, _known_keys(path, tree))}"
        elif item["type"] in ("union_tag_invalid", "unknown_kind"):
            expected = _expected(key) or item["ctx"]["expected_tags"].replace("'", "").split(", ")
            given = _short(item["ctx"].get("tag", item["ctx"].get("kind")))
            yield f"{key}.kind={given} does not exist{nearest(given, expected)}; known: {', '.join(expected)}"
        elif item["type"] == "plugin_not_named":
            kind = _short(one_line(item["ctx"]["kind"]))
            yield f"{key}={kind}: {text.replace('MODULE:CLASS', kind)}"
        elif item["type"] in ("string_type", "path_type") and isinstance(item["input"], int | float | date):
            yield f"{key}={_short(item['input'])}: write it in quotes, because YAML does not read it as text"
        else:
            given = item["input"]
            shown = f"={_short(given)}" if isinstance(given, str | int | float | bool | list) else ""
            yield f"{key}{shown}: {text[0].lower()}{text[1:]}"


def _expected(key: str) -> list[str]:
    """The kinds of a section that has a registry."""
    return next((registry.kinds() for registry in REGISTRIES if registry.key == key), [])


def key_of(place: Sequence[str]) -> str:
    """Name of a setting from the location that pydantic reports, without the kinds and types in it.

    >>> key_of(["prompt", "deep", "layers", "list[constrained-int]", "0"])
    'prompt.layers.0'
    """
    path = list(place)
    tried = {index for index, part in enumerate(path) if "[" in part or part in ("bool", "str", "constrained-str")}
    return ".".join(part for index, part in enumerate(path) if index not in tried and not _is_tag(path, index))


def _unencodable(key: str, value: Any) -> Iterator[str]:
    """One line for each text that cannot be written to a file, such as a path that is not UTF-8."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unencodable(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list):
        for item in value:
            yield from _unencodable(key, item)
    elif isinstance(value, str) and not _is_encodable(value):
        yield f"{key}={_short(one_line(value))}: not UTF-8; rename it, or set LC_ALL=C.UTF-8 if the name is UTF-8"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(given: object) -> str:
    """Shorten a value for a message.

    >>> len(_short("x" * 1000)) < 100
    True
    """
    try:
        text = str(given)
    except ValueError:  # more digits than Python can print
        return "..."
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is_tag(path: list[str], index: int) -> bool:
    """Whether a part of pydantic's location is a chosen kind, as in prompt, deep, tokens."""
    return index > 0 and path[index] in _kinds(path[index - 1])


def _known_keys(path: list[str], tree: Mapping[str, Any]) -> set[str]:
    """The valid keys in place of the last part of `path`."""
    fields: Any = RunConfig
    given: Any = tree
    for index, part in enumerate(path[:-1]):
        if _is_tag(path, index):
            fields = _kinds(path[index - 1])[part]
            continue
        given = given.get(part) if isinstance(given, Mapping) else None
        if _kinds(part):
            kind = given.get("kind") if isinstance(given, Mapping) else None
            fields = _section_of(part, kind) or fields  # a plug-in's name is not a part of the path
        elif part in ("lr", "weight_decay"):
            fields = PerRole
        elif not part.isdigit():  # an index into a list
            annotation = fields.model_fields[part].annotation
            if get_origin(annotation) is list:
                (annotation,) = get_args(annotation)
            fields = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else fields
    return set(fields.model_fields)
