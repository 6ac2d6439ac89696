"""From an artifact to a model that is ready to predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpt.artifact import Artifact, read_artifact
from vpt.backbones.held import Dtype
from vpt.config import RunConfig
from vpt.device import pick_device
from vpt.errors import UserError
from vpt.prompted import Prompted
from vpt.tasks import task_of


def load_model(
    path: str | Path,
    device: str = "auto",
    weights: str | Path | None = None,
    dtype: Dtype | None = None,
    config: RunConfig | None = None,
    precision: str = "fp32",
) -> tuple[Prompted, Artifact]:
    """Build the model an artifact describes and load it, ready to predict.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        weights: another place of the backbone's weight file.
        dtype: hold the backbone's weights in another type than in training: fp32, bf16, int8, nf4.
        config: settings to build by, where they are not the artifact's own.
        precision: of the passes that will be made; frozen layers are held as autocast rounds them, as in training.

    Raises:
        UserError: what `read_artifact` raises, a backbone that cannot be had, or another one than it was trained on.
    """
    artifact = read_artifact(path)
    changes: dict[str, Any] = {}
    if weights is not None:
        changes["weights"] = Path(weights)
    if dtype is not None:
        changes["dtype"] = dtype
    config = config or artifact.config
    wanted = config.backbone.model_copy(update=changes)
    if wanted.weights is not None and not wanted.weights.is_file():
        raise UserError(
            f"the backbone's weights are not at {wanted.weights} any more; name the file with --weights FILE"
        )
    config = config.model_copy(update={"backbone": wanted})
    model = task_of(config).build(config, artifact.classes)
    found = model.backbone
    if found.fingerprint != artifact.backbone["fingerprint"]:
        raise UserError(
            f"{artifact.path} was trained on backbone {artifact.backbone['name']} "
            f"(fingerprint {artifact.backbone['fingerprint'][:12]}), not on {found.name} "
            f"(fingerprint {found.fingerprint[:12]}); give the backbone it was trained on, with "
            "its weights, activation and pooling"
        )
    model.set_preprocess(artifact.preprocess)
    model.load_owned(dict(artifact.tensors))
    model.backbone.round_to(precision)  # while what learned still tells itself apart
    model.requires_grad_(False)
    return model.to(pick_device(device)).eval(), artifact
