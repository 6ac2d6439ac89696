"""What a task owns on disk: prompt and head in one safetensors file that says which backbone they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from vpt import hub
from vpt.config import DataConfig, RunConfig, TrainConfig
from vpt.errors import UserError
from vpt.preprocess import Preprocess
from vpt.prompted import Prompted
from vpt.runfolder import CHECKPOINT
from vpt.tensorfile import other_format, read_tensors, write_tensors
from vpt.version import own_version

FORMAT = 2  # 1: the backbone's fingerprint told of weights alone, without position embeddings
KIND = "vpt artifact"


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
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write what `model` owns (or `tensors`, an earlier state of it), atomically, then read it back to be sure."""
    header = {
        "kind": KIND,
        "format": FORMAT,
        "vpt": own_version(),
        "config": _shareable(config).model_dump(mode="json"),
        "classes": list(classes),
        "multilabel": multilabel,
        "backbone": {"name": model.backbone.name, "fingerprint": model.backbone.fingerprint},
        "preprocess": asdict(model.backbone.preprocess),
        "metrics": dict(metrics or {}),
    }
    path = write_tensors(path, model.stored_state() if tensors is None else tensors, header)
    read_artifact(path)
    return path


def _shareable(config: RunConfig) -> RunConfig:
    """The settings without those of this machine, so that equal runs make equal files wherever they ran."""
    data, train, plain = DataConfig(), TrainConfig(), RunConfig()
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={key: getattr(data, key) for key in ("workers", "cache")}),
            "train": config.train.model_copy(
                update={key: getattr(train, key) for key in ("device", "checkpoint_minutes")}
            ),
            **{key: getattr(plain, key) for key in ("out", "name", "compare", "cases")},
        }
    )


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

    Raises:
        UserError: missing, damaged, not an artifact, or of another format.
    """
    path = find_artifact(path)
    tensors, header = read_tensors(path)
    if header.get("kind") != KIND:
        raise UserError(f"{path} is a {header.get('kind', 'file of another kind')}, not an artifact")
    if header["format"] != FORMAT:
        raise UserError(other_format(path, header, FORMAT))
    try:
        config = RunConfig.model_validate(header["config"])
    except ValidationError as error:
        raise UserError(f"{path} was written by vpt {header['vpt']}, whose settings this vpt cannot read") from error
    pre = header["preprocess"]
    return Artifact(
        path=path,
        config=config,
        classes=tuple(header["classes"]),
        multilabel=header["multilabel"],
        preprocess=Preprocess(**{**pre, "mean": tuple(pre["mean"]), "std": tuple(pre["std"])}),
        backbone=header["backbone"],
        metrics=header["metrics"],
        tensors=tensors,
    )


def artifact_bytes(model: Prompted) -> int:
    """Size the artifact of this model will have: its tensors, and some kilobytes of header."""
    return sum(t.nbytes for t in model.stored_state().values()) + 4096
