"""What a task owns on disk: prompt and head in one safetensors file that says which backbone they belong to."""

from __future__ import annotations

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

MAX_FROZEN = 4 << 30  # bytes of tensors where the backbone stays as it is


@dataclass(frozen=True)
class Artifact:
    """The content of an artifact file."""

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
    """Write what `model` owns, atomically, then read it back to be sure.

    The backbone is noted as one that the user has named, so that the artifact is loaded without naming it again.
    """
    header = {
        "kind": ArtifactHeader.KIND,
        "format": ArtifactHeader.FORMAT,
        "vpt": own_version(),
        "config": _with_texts(_shareable(config), model).model_dump(mode="json"),
        "classes": list(classes),
        "multilabel": multilabel,
        "backbone": {"name": model.backbone.name, "fingerprint": model.backbone.fingerprint},
        "preprocess": asdict(model.backbone.preprocess),
        "metrics": dict(metrics or {}),
    }
    path = write_tensors(path, model.stored_state(), header)
    read_artifact(path)
    remember(model.backbone.fingerprint, config.backbone)
    return path


def _shareable(config: RunConfig) -> RunConfig:
    """The settings without those of this machine, so that equal runs make equal files wherever they ran."""
    data, train, plain = DataConfig(), TrainConfig(), RunConfig()
    return config.with_(
        {f"data.{key}": getattr(data, key) for key in ("workers", "cache")}
        | {f"train.{key}": getattr(train, key) for key in ("device", "checkpoint_minutes")}
        | {key: getattr(plain, key) for key in ("out", "name", "compare", "cases")}
    )


def _with_texts(config: RunConfig, model: Prompted) -> RunConfig:
    """The settings with the texts of a file of templates in place of its name, for no file is opened on an artifact's
    word."""
    templates = getattr(config.head, "templates", None)
    if templates is None or not names_a_file(templates):
        return config
    texts = list(model.head.templates)  # type: ignore[arg-type]
    return config.with_({"head.templates": texts})


def find_artifact(path: str | Path) -> Path:
    """The artifact file itself, given it, its run folder, or `hf:owner/name` on the Hugging Face Hub.

    Raises:
        UserError: none of these.
    """
    if str(path).startswith(hub.PREFIX):
        return hub.pull(str(path))
    path = Path(path)
    if path.is_dir():
        inside = path / "artifact.safetensors"
        if not inside.is_file():
            unfinished = (path / CHECKPOINT).is_file()
            raise UserError(
                f"{path} holds no artifact.safetensors; "
                + (f"finish the run with: vpt train resume={path}" if unfinished else "is it a run folder?")
            )
        return inside
    if not path.is_file():
        raise UserError(f"{path}: there is no such run folder or artifact")
    return path


def read_artifact(path: str | Path) -> Artifact:
    """Read and check an artifact file or the one in a run folder.

    The file may be a stranger's: every field of its header is typed and bounded, and nothing that it names is opened.

    Raises:
        UserError: missing, damaged, not an artifact, of another format, or with a header that is not as it must be.
    """
    path = find_artifact(path)
    with open_tensors(path) as file:
        header = parse_header(ArtifactHeader, file)
        if header.config.tuning.kind == "frozen" and file.nbytes > MAX_FROZEN:
            raise FileError(path, f"is larger than {MAX_FROZEN >> 30} GiB, though it leaves the backbone as it is")
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
    """Size the artifact of this model will have: its tensors, and some kilobytes of header."""
    return sum(t.nbytes for t in model.stored_state().values()) + 4096
