"""From an artifact to a model that is ready to predict."""

from __future__ import annotations

from pathlib import Path

from vpt.backbones.backbone import Backbone
from vpt.backbones.known_backbones import remember
from vpt.backbones.quantization.linear import Dtype
from vpt.config import RunConfig
from vpt.models.artifact import Artifact, read_artifact
from vpt.models.base import Prompted
from vpt.models.shape_check import check_tensors
from vpt.models.trusted_settings import NOTHING, Named, settings_for
from vpt.training.tasks import task_of
from vpt.utils.device import pick_device
from vpt.utils.errors import UserError


def load_model(
    path: str | Path,
    device: str = "auto",
    named: Named = NOTHING,
    dtype: Dtype | None = None,
    config: RunConfig | None = None,
    precision: str = "fp32",
) -> tuple[Prompted, Artifact]:
    """Build the model an artifact describes and load it, ready to predict.

    The file may be a stranger's: what it names is not opened (see trusted_settings.py), and its tensors
    are compared with its header before anything of their size is made.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        named: backbone, weight file and templates that the user names himself.
        dtype: hold the backbone's weights in another type than in training: fp32, bf16, int8, nf4.
        config: settings to build by that the user has chosen, where they are not the artifact's own.
        precision: of the passes that will be made; frozen layers are held as autocast rounds them, as in training.

    Raises:
        UserError: what `read_artifact` raises, a backbone that cannot be had, or another one than it was trained on.
    """
    artifact = read_artifact(path)
    config = config or settings_for(artifact, named)
    if dtype is not None:
        config = config.with_({"backbone.dtype": dtype})
    task = task_of(config)
    backbone = task.backbone(config)
    if backbone is not None:
        _check_backbone(artifact, backbone)
    check_tensors(artifact.path, config, artifact.classes, artifact.tensors, backbone)
    model = task.build(config, artifact.classes, backbone)
    if backbone is None:
        _check_backbone(artifact, model.backbone)
    model.set_preprocess(artifact.preprocess)
    model.load_owned(dict(artifact.tensors))
    if named != NOTHING:
        remember(artifact.backbone["fingerprint"], config.backbone)
    model.backbone.round_to(precision)  # while what learned still tells itself apart
    model.requires_grad_(False)
    return model.to(pick_device(device)).eval(), artifact


def _check_backbone(artifact: Artifact, found: Backbone) -> None:
    """Whether a backbone is the one on which the artifact was trained."""
    if found.fingerprint != artifact.backbone["fingerprint"]:
        raise UserError(
            f"{artifact.path} was trained on backbone {artifact.backbone['name']} "
            f"(fingerprint {artifact.backbone['fingerprint'][:12]}), not on {found.name} "
            f"(fingerprint {found.fingerprint[:12]}); give the backbone it was trained on, with "
            "its weights, activation and pooling"
        )
