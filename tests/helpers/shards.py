"""Writes tar archives in the layouts of webdataset and CLIP_benchmark."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.helpers.image_files import encoded, photo

Files = dict[str, bytes]


def shard(file: Path, contents: Files) -> Path:
    """A tar archive of these files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def samples(labels: list[int], start: int = 0, kind: str = "cls") -> Files:
    """Pictures and their labels."""
    found: Files = {}
    for at, label in enumerate(labels, start):
        found[f"{at:06d}.png"] = encoded("PNG", photo(8, 8, seed=at))
        text = json.dumps({"label": label, "width": 8}) if kind == "json" else str(label)
        found[f"{at:06d}.{kind}"] = text.encode()
    return found


def clip_benchmark(root: Path) -> Path:
    """As `clip_benchmark`'s webdataset exporter writes a data set of classes."""
    for split, count in (("train", 2), ("test", 1)):
        for at in range(count):
            files: Files = {}
            for sample in range(4):
                files[f"s{4 * at + sample:07d}.cls"] = str(sample % 2).encode()
                files[f"s{4 * at + sample:07d}.webp"] = encoded("WEBP", photo(8, 8, seed=sample))
            shard(root / split / f"{at}.tar", files)
        (root / split / "nshards.txt").write_text(str(count))
    (root / "classnames.txt").write_text("barn owl\nguinea fowl\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na sketch of a {c}.\n")
    return root
