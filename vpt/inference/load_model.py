"""Loading a model from an artifact."""

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
from vpt.utils.device import inference_precision, pick_device
from vpt.utils.errors import UserError
from vpt.utils.precision import Precision


def load_model(
    path: str | Path,
    device: str = "auto",
    named: Named = NOTHING,
    dtype: Dtype | None = None,
    config: RunConfig | None = None,
    precision: Precision | None = None,
    overlap: float | None = None,
) -> tuple[Prompted, Artifact]:
    """Build the model of an artifact and load its tensors, ready for prediction.

    The file is untrusted: files that it names are not opened (see trusted_settings.py), and its tensors
    are compared with its header before memory of their size is allocated.

    Args:
        path: artifact file or run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        named: backbone, weight file and templates named by the user.
        dtype: store the backbone's weights in another type than in training: fp32, bf16, int8, nf4.
        config: settings chosen by the user, if they differ from those of the artifact.
        precision: precision of the passes, as in `vpt.load`; frozen layers are stored in the type that autocast would
            cast them to.
        overlap: of a detector, the IoU threshold of non-maximum suppression, instead of the artifact's.

    Raises:
        UserError: errors of `read_artifact`, or the backbone is not available or not the one it was trained on.
    """
    artifact, place = read_artifact(path), pick_device(device)
    used = inference_precision(artifact.config.train.precision, place, precision)
    config = config or settings_for(artifact, named)
    if dtype is not None:
        config = config.with_({"backbone.dtype": dtype})
    if overlap is not None:
        if config.task != "detection":
            raise UserError(f"an IoU threshold (--iou) is for detection, not for task={config.task}")
        config = config.with_({"head.overlap": overlap})
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
    # While trained parameters can still be distinguished.
    model.backbone.round_to(used)
    model.requires_grad_(False)
    return model.to(place).eval(), artifact


def _check_backbone(artifact: Artifact, found: Backbone) -> None:
    """Check that a backbone is the one on which the artifact was trained."""
    if found.fingerprint != artifact.backbone["fingerprint"]:
        raise UserError(
            f"{artifact.path} was trained on backbone {artifact.backbone['name']} "
            f"(fingerprint {artifact.backbone['fingerprint'][:12]}), not on {found.name} "
            f"(fingerprint {found.fingerprint[:12]}); use the backbone it was trained on, with "
            "its weights, activation and pooling"
        )
