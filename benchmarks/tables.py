"""Writes the README's tables from benchmarks/results/*.json; no number in them is typed by hand.

python benchmarks/tables.py          # rewrite README.md
python benchmarks/tables.py --check  # exit 1 if it is out of date
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpt.files import write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if options.check:
        raise SystemExit(0 if before == after else "README.md is out of date: python benchmarks/tables.py")
    write_text(readme, after)


def filled(text: str) -> str:
    """`text` with the inside of every `<!-- table:NAME -->` ... `<!-- end -->` made anew."""

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- table:{name} -->\n{TABLES[name]()}\n<!-- end -->"

    return re.sub(r"<!-- table:(\w+) -->\n.*?<!-- end -->", table, text, flags=re.S)


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *body])


def speed() -> str:
    found = read("speed-cpu")
    body = [
        [
            case["model"],
            str(case["tokens"]),
            str(case["batch"]),
            f"{case['training_speedup']:.2f}x",
            f"{case['training_memory_ratio']:.2f}x",
            f"{case['inference_over_plain']:.3f}x",
            f"{case['concatenation_over_plain']:.3f}x",
        ]
        for case in found["cases"]
    ]
    machine = found["machine"]
    caption = (
        f"Measured on {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{found['precision']}, 224 px, medians of "
        f"{found['cases'][0]['rounds']} alternating rounds (`benchmarks/speed.py`)."
    )
    header = [
        "model",
        "deep tokens",
        "batch",
        "training speed",
        "training memory",
        "inference time",
        "its concatenation",
    ]
    return f"{rows(header, body)}\n\n{caption}"


def clothing() -> str:
    found = read("clothing")
    body = [
        [
            row["method"],
            f"{100 * row['test']['accuracy']:.1f}%",
            f"{100 * row['val']['accuracy']:.1f}%",
            f"{row['parameters']['learning']:,}",
            f"{row['artifact_bytes'] / 1e6:.2f} MB",
            str(row["epochs"]),
            f"{row['seconds'] / 60:.0f} min",
        ]
        for row in found["rows"]
    ]
    settings = " ".join(f"`{word}`" for word in found["settings"])
    header = ["method", "test accuracy", "validation", "parameters that learn", "artifact", "epochs", "time"]
    return f"{rows(header, body)}\n\nSettings beside the defaults: {settings}."


def search() -> str:
    found = read("clothing-search")
    body = [
        [
            row["question"],
            " ".join(f"`{word.removeprefix('train.optimizer.')}`" for word in row["setting"]),
            f"{100 * row['val']['accuracy']:.1f}%",
            f"{row['val']['loss']:.3f}",
        ]
        for row in found["rows"]
    ]
    return rows(["question", "setting", "validation accuracy", "validation loss"], body)


def quickstart() -> str:
    found = read("quickstart")
    body = [
        [
            row["method"],
            f"{100 * row['accuracy']:.1f}%",
            f"{row['learning']:,}",
            f"{row['artifact_bytes'] / 1e6:.2f} MB",
        ]
        for row in found["rows"]
    ]
    return rows(["method", "test accuracy", "parameters that learn", "artifact"], body)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "clothing": clothing,
    "search": search,
    "quickstart": quickstart,
}


if __name__ == "__main__":
    main()
