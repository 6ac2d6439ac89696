"""Artifacts: prompt and head of a task in one safetensors file, whose header names the backbone they belong to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.backbones.known_backbones import remember
from vpt.config import DataConfig, RunConfig, TrainConfig, names_a_file
from vpt.data.normalization import Preprocess
from vpt.models.base import Prompted
from vpt.models.header import CHECKPOINT, ArtifactHeader, parse_header
from vpt.utils import hub
from vpt.utils.errors import FileError, UserError
from vpt.utils.tensor_io import open_tensors, write_tensors
from vpt.utils.version import own_version

# Files of a run: the best epoch, and the last one of a run that keeps the best.
BEST, LAST = "artifact.safetensors", "last.safetensors"
MAX_FROZEN = 4 << 30  # maximum bytes of tensors if the backbone is frozen


@dataclass(frozen=True)
class Artifact:
    """Content of an artifact file."""

    path: Path
    config: RunConfig
    classes: tuple[str, ...]
    multilabel: bool
    preprocess: Preprocess
    backbone: Mapping[str, str]  # name and fingerprint
    metrics: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_artifact(
    path: str | Path,
    model: Prompted,
    config: RunConfig,
    classes: Sequence[str],
    multilabel: bool = False,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write the artifact of `model` atomically, then verify it by reading it back.

    The backbone is recorded as named by the user, so that the artifact can be loaded without naming it again.
    """
    config, net = _with_texts(_shareable(config), model), model.backbone
    named = {"name": net.name, "fingerprint": net.fingerprint}
    found = Artifact(
        Path(path), config, tuple(classes), multilabel, net.preprocess, named, metrics or {}, model.stored_state()
    )
    path = write_artifact(found)
    remember(net.fingerprint, config.backbone)
    return path


def write_artifact(artifact: Artifact) -> Path:
    """Write an artifact to its path atomically, then verify it by reading it back."""
    header = {
        "kind": ArtifactHeader.KIND,
        "format": ArtifactHeader.FORMAT,
        "vpt": own_version(),
        "config": artifact.config.model_dump(mode="json"),
        "classes": list(artifact.classes),
        "multilabel": artifact.multilabel,
        "backbone": dict(artifact.backbone),
        "preprocess": asdict(artifact.preprocess),
        "metrics": dict(artifact.metrics),
    }
    path = write_tensors(artifact.path, artifact.tensors, header)
    read_artifact(path)
    return path


def _shareable(config: RunConfig) -> RunConfig:
    """The settings without those of this machine, so that equal runs write equal files on any machine."""
    data, train, plain = DataConfig(), TrainConfig(), RunConfig()
    return config.with_(
        {f"data.{key}": getattr(data, key) for key in ("workers", "cache")}
        | {f"train.{key}": getattr(train, key) for key in ("device", "checkpoint_minutes", "prompt_from")}
        | {key: getattr(plain, key) for key in ("out", "name", "compare", "cases", "log")}
    )


def _with_texts(config: RunConfig, model: Prompted) -> RunConfig:
    """The settings with the name of a template file replaced by its texts, because files named by an artifact are never
    opened."""
    templates = getattr(config.head, "templates", None)
    if templates is None or not names_a_file(templates):
        return config
    texts = list(model.head.templates)  # type: ignore[arg-type]
    return config.with_({"head.templates": texts})


def find_artifact(path: str | Path) -> Path:
    """Path of an artifact file, given the file, its run folder, or `hf:owner/name` on the Hugging Face Hub.

    Raises:
        UserError: there is no artifact at the path.
    """
    if str(path).startswith(hub.PREFIX):
        return hub.pull(str(path))
    path = Path(path)
    if path.is_dir():
        inside = path / BEST
        if not inside.is_file():
            resume = f"finish the run with: vpt train resume={shlex.quote(str(path))}"
            unfinished = (path / CHECKPOINT).is_file()
            raise UserError(
                f"{path} contains no artifact.safetensors; " + (resume if unfinished else "is it a run folder?")
            )
        return inside
    if not path.is_file():
        raise UserError(f"{path}: there is no such run folder or artifact")
    return path


def unfinished(path: str | Path) -> str:
    """A note about a run folder in which training has not finished; "" for anything else.

    >>> unfinished("no/such/run")
    ''
    """
    folder = Path(path)
    if not (folder / CHECKPOINT).is_file() or (folder / "metrics.json").exists():
        return ""
    return f"{folder} has not finished training; this is its best epoch so far"


def read_artifact(path: str | Path) -> Artifact:
    """Read and check an artifact file, or the one in a run folder.

    The file is untrusted: every field of its header is typed and bounded, and no file that it names is opened.

    Raises:
        UserError: the file is missing, damaged, not an artifact, of another format, or has an invalid header.
    """
    path = find_artifact(path)
    with open_tensors(path) as file:
        header = parse_header(ArtifactHeader, file)
        if header.config.tuning.kind != "full" and file.nbytes > MAX_FROZEN:
            raise FileError(path, f"is larger than {MAX_FROZEN >> 30} GiB, although the backbone's weights are frozen")
        tensors = file.tensors()
    return Artifact(
        path=path,
        config=_shareable(header.config),
        classes=tuple(header.classes),
        multilabel=header.multilabel,
        preprocess=header.preprocess.plain(),
        backbone=header.backbone.model_dump(),
        metrics=header.metrics,
        tensors=tensors,
    )


def artifact_bytes(model: Prompted) -> int:
    """Expected size of a model's artifact in bytes: its tensors, and a few kilobytes of header."""
    return sum(t.nbytes for t in model.stored_state().values()) + 4096
