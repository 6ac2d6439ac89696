"""`vpt eval`: evaluate a model on a split."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt.cli.parser import file_and_overrides, is_path, show
from vpt.utils.errors import UserError, nearest
from vpt.utils.file_names import one_line
from vpt.utils.std_streams import say


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a model on a split",
        description="Evaluate a trained model, or one that needs no training, on a split of a data set.",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|ARTIFACT|CONFIG.yaml | key=value",
        help="a run or artifact, or settings that need no training (head=zeroshot prompt=none); "
        "split=test, val or train; data=...",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="current location of the backbone's weights")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="default: table")
    parser.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> int:
    first = options.words[0]
    artifact = first if is_path(first) and not first.endswith((".yaml", ".yml")) else None
    file, overrides = file_and_overrides(options.words[1:] if artifact else options.words)
    if file and artifact:
        raise UserError(f"'{file}' is not of the form key=value, as in data=photos")
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("split=")]
    split = chosen[-1] if chosen else None
    known = ("train", "val", "test")
    if split is not None and split not in known:
        raise UserError(f"split={split} does not exist{nearest(split, known)}; known: {', '.join(known)}")
    overrides = [word for word in overrides if not word.startswith("split=")]
    from vpt.config import full_words, load_config, word

    if options.weights is not None and not artifact:
        overrides.append(word("backbone.weights", options.weights))
    config = None if artifact else load_config(file, overrides)
    from vpt.inference.evaluate import UNTRAINED, evaluate, evaluate_untrained, refuse_idle
    from vpt.models.artifact import unfinished

    if config is not None:
        refuse_idle(full_words(overrides, config.model_dump()), UNTRAINED, "nothing is trained")
        found = evaluate_untrained(config, split)
    else:
        assert artifact is not None
        if note := unfinished(artifact):
            say(f"vpt: {note}")
        found = evaluate(artifact, split, overrides, weights=options.weights)
    if options.format == "json":
        import json

        print(json.dumps(found, indent=2))
        return 0
    limits = found.get("intervals", {})
    width = max(18, *map(len, limits)) if limits else 18
    for name, value in found.items():
        if isinstance(value, float | int):
            between = f"  (95%: {limits[name][0]:.4f} to {limits[name][1]:.4f})" if name in limits else ""
            print(f"{name:<{width}} {value:.4f}{between}" if isinstance(value, float) else f"{name:<{width}} {value}")
        elif value is None:
            print(f"{name:<{width}} -")
    if "per_class" in found:
        show(f"\n{_by_class(found['per_class'])}")
    return 0


# Metrics of classes, of all tasks, and the titles of their columns.
COLUMNS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "f1",
    "map": "mAP",
    "iou": "IoU",
    "dice": "Dice",
    "boundary": "boundary",
    "support": "images",
    "boxes": "boxes",
    "pixels": "pixels",
}


def _by_class(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of per-class metrics, with "-" for metrics that are undefined.

    >>> print(_by_class([{"class": "cat", "map": 0.5, "boxes": 3}, {"class": "dog", "map": None, "boxes": 0}]))
    class                          mAP     boxes
    cat                          0.500         3
    dog                              -         0
    """
    shown = {key: title for key, title in COLUMNS.items() if rows and key in rows[0]}
    lines = [f"{'class':<24}" + "".join(f" {title:>9}" for title in shown.values())]
    for row in rows:
        lines.append(f"{one_line(row['class']):<24}" + "".join(f" {_cell(row[key]):>9}" for key in shown))
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
